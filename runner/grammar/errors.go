package grammar

import "errors"

var (
	// ErrPattern is wrapped by errors about a regular expression that is malformed or not supported.
	ErrPattern = errors.New("grammar: unusable pattern")
	// ErrSchema is wrapped by errors about a JSON schema that is malformed or not supported.
	ErrSchema = errors.New("grammar: unusable schema")
	// ErrLimit is wrapped by errors about what would take more memory, or time, than it may.
	ErrLimit = errors.New("grammar: too complex")
	// ErrToken is wrapped by errors about a token that may not follow.
	ErrToken = errors.New("grammar: token not allowed")
)
