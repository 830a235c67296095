package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/models/hub"
)

func (p *program) pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "download a checkpoint from the Hugging Face hub",
		ArgsUsage: "NAME",
		UsageText: "qwenrt pull NAME [options]",
		Description: "Prints the folder. Downloads go into the Hugging Face cache, go on where they stopped, and are\n" +
			"checked against their hashes. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are understood.\n\n" +
			"Example: qwenrt pull Qwen/Qwen3-0.6B",
		Flags: hubFlags(),
		Action: func(c *cli.Context) error {
			arg, err := argument(c)
			if err != nil {
				return err
			}
			name, ok := hub.ParseName(arg)
			if !ok {
				return commandUsage(c, "%q is no name on the hub, such as Qwen/Qwen3-0.6B", arg)
			}
			dir, err := p.pull(c.Context, name, c.String("revision"), c.Bool("offline"))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, dir)
			return err
		},
	}
}
