package accelerate

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/qwenrt/qwenrt/models/qwen3"
)

// Source says where a checkpoint is: in a Hugging Face folder, or in a file system such as one
// embedded in the program.
type Source struct {
	Dir string
	FS  fs.FS // instead of Dir
	// Name is recorded in the model folder. Default: the folder's name.
	Name string
}

func (s Source) open() (*qwen3.Source, error) {
	switch {
	case s.FS != nil && s.Dir != "":
		return nil, errors.New("accelerate: the source has both a folder and a file system")
	case s.FS != nil:
		return qwen3.OpenFS(s.FS)
	case s.Dir == "":
		return nil, errors.New("accelerate: the source names no folder")
	}
	return qwen3.Open(s.Dir)
}

func (s Source) name() string {
	if s.Name != "" || s.Dir == "" {
		return s.Name
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		dir = s.Dir
	}
	return filepath.Base(dir)
}
