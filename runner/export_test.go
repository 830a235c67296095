package runner

// ReplaceFile is how snapshots are written, for a test that is killed in the middle.
var ReplaceFile = replaceFile
