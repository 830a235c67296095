package tiny

import (
	"embed"
	"io/fs"
)

//go:embed qwen3-tiny
var files embed.FS

// Name is the folder name of the carried checkpoint, and the name by which the command knows it.
const Name = "qwen3-tiny"

// Checkpoint is the carried Hugging Face folder: config.json, generation_config.json,
// model.safetensors (bf16), tokenizer.json and tokenizer_config.json at its root.
func Checkpoint() fs.FS {
	sub, err := fs.Sub(files, Name)
	if err != nil {
		panic("tiny: " + err.Error()) // the embedded folder is fixed at compile time
	}
	return sub
}
