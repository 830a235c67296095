// Package tune finds the configuration that suits a machine and a purpose: Recommend estimates, in seconds, from what kernels
// reach on the machine; Search measures, in minutes, on the model itself.
//
// Estimates are sums of what is measured (package machine) and counted (the model's configuration):
//
//	time of a token    = products' weights / rate at one row + layers × (rest + context × rest for each cached token)
//	time of a prompt   = tokens × (layers' weights / rate at many rows + layers × rest) + head / rate at one row
//	memory             = weights as kernels hold them + KV cache at the context + activations of a prefill chunk
//
// The package builds models through package accelerate, into its cache, and never prints.
package tune
