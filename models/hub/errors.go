package hub

import "errors"

// What a caller may want to tell apart. The errors that wrap these say what to do.
var (
	// ErrName means that a repository or revision name is not one the hub could have.
	ErrName = errors.New("not a valid name")
	// ErrNotFound means that the hub has no such repository, revision or file, or hides it from this token.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized means that the hub wants a token, or another one.
	ErrUnauthorized = errors.New("access denied")
	// ErrNoCheckpoint means that the repository holds no safetensors checkpoint with a tokenizer.json.
	ErrNoCheckpoint = errors.New("no safetensors checkpoint")
	// ErrOffline means that the cache lacks what was asked for and the network may not be used.
	ErrOffline = errors.New("not in the cache")
	// ErrHash means that a complete download does not have the content that the hub announced.
	ErrHash = errors.New("content does not match its hash")
	// ErrNoSpace means that the disk of the cache is full or too small.
	ErrNoSpace = errors.New("not enough disk space")
)
