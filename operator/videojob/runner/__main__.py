"""`python -m videojob.runner`."""

from videojob.runner.main import main

main()
