// Package hub downloads model checkpoints from the Hugging Face hub, or a mirror of it, into the cache that
// the hub's own Python library uses, so that neither downloads what the other has.
//
//	var client hub.Client // settings from the environment
//	dir, err := client.Pull(ctx, "Qwen/Qwen3-0.6B", "main")
//
// The folder that Pull returns holds config.json, the tokenizer's files and the safetensors weights of one
// commit, as links to files named by their content's hash. A download that was cut off goes on where it
// stopped, every file is checked against its hash before it gets its name, and any number of processes may
// pull at once.
//
// The environment is the Python library's
// (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables):
//
//	HF_ENDPOINT      the hub's address; default https://huggingface.co
//	HF_TOKEN         token for private and gated repositories; default: the file that `hf auth login` writes
//	                 (HF_TOKEN_PATH, default HF_HOME/token); HF_HUB_DISABLE_IMPLICIT_TOKEN=1 sends neither
//	HF_HUB_CACHE     the cache; default HF_HOME/hub
//	HF_HOME          default XDG_CACHE_HOME/huggingface, or ~/.cache/huggingface
//	HF_HUB_OFFLINE   1: the cache only (TRANSFORMERS_OFFLINE is understood too)
//
// What a server says is checked before use: file names, commits and hashes become paths only if they have
// the form of one, and the token goes to the endpoint alone, never to a host that it redirects to.
//
// The package never prints, never uploads, never deletes a complete file from the cache, and never runs or
// interprets what it downloads.
package hub
