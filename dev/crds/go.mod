module videojob.dev/crds

go 1.26.0

// CRDs of others, which the chart makes objects of. Their files are read; nothing is built.
require (
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
