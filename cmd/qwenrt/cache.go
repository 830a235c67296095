package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// pruneAfter is how many days a folder of the cache must not have been used for, unless flags say otherwise.
const pruneAfter = 30

func (p *program) cacheCommand() *cli.Command {
	return &cli.Command{
		Name:      "cache",
		Usage:     "list what has been built, or remove what is not used",
		ArgsUsage: "list|prune",
		UsageText: "qwenrt cache list|prune [options]",
		Description: "The cache holds the models that were built from checkpoints, and their graphs as ONNX Runtime optimised\n" +
			"them. What is removed is made again when it is needed.\n\n" +
			"Example: qwenrt cache prune --days 7",
		Flags: []cli.Flag{
			formFlag(),
			&cli.IntFlag{Name: "days", Usage: "prune: what has not been used for `N` days; 0 is everything", Value: pruneAfter},
		},
		Action: p.cache,
	}
}

func (p *program) cache(c *cli.Context) error {
	what, err := argument(c)
	if err != nil {
		return err
	}
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	var entries []accelerate.CacheEntry
	switch {
	case what == "list" && c.IsSet("days"):
		return commandUsage(c, "--days is for prune")
	case what == "list":
		entries, err = accelerate.CacheEntries()
	case what == "prune" && c.Int("days") < 0:
		return commandUsage(c, "--days is %d: want 0 or more", c.Int("days"))
	case what == "prune":
		entries, err = accelerate.Prune(c.Context, time.Duration(c.Int("days"))*24*time.Hour)
	default:
		return commandUsage(c, "%q: want list or prune", what)
	}
	if err != nil {
		return err
	}
	if jsonForm {
		if entries == nil {
			entries = []accelerate.CacheEntry{}
		}
		return p.writeJSON(entries)
	}
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	var bytes int64
	for _, e := range entries {
		bytes += e.Bytes
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Kind, e.Source, e.Precision, bytesText(e.Bytes), e.Used.Format(time.DateOnly), e.Dir)
	}
	verb := "there are"
	if what == "prune" {
		verb = "removed"
	}
	fmt.Fprintf(t, "%s %d folders, %s\n", verb, len(entries), bytesText(bytes))
	return t.Flush()
}
