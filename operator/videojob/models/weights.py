"""Weights in fewer bits than are computed with: eight, with a scale for each row of a linear layer, by torchao.

Where a layer is used, its weights are brought back to the number format of the component. That costs time; what it
gains is memory: half of bfloat16.
"""

from typing import Any

from videojob.triton.contract import WeightFormat


def keep_weights_as(module: Any, weights: WeightFormat) -> None:
    """Keep the weights of the module's linear layers in that number format, in place.

    Raises ValueError where torchao cannot do it: they stay as they are nowhere.
    """
    # It takes four seconds to import, which models without such weights would wait for as well.
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    try:
        quantize_(module, Int8WeightOnlyConfig() if weights == "int8" else Float8WeightOnlyConfig())
    except Exception as error:
        raise ValueError(f"The weights of a {type(module).__name__} cannot be kept as {weights}: {error}") from error
