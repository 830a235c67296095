//go:build !linux && !darwin

package main

func machineMemory() memory { return memory{} }
