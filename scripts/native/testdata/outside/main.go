// Outside is a program of another module: it streams the answer of the model folder that is its argument.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
)

func main() {
	ctx := context.Background()
	r, err := runner.Open(ctx, os.Args[1], runner.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	request := runner.Request{
		Messages:  []chat.Message{{Role: "user", Content: `What does "harbor" mean?`}},
		Think:     new(false),
		MaxTokens: 8,
		IgnoreEOS: true,
	}
	for event, err := range r.Generate(ctx, request) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.Text)
		if event.Result != nil {
			fmt.Printf("\n%s: %d tokens\n", event.Result.Reason, event.Result.GeneratedTokens)
		}
	}
}
