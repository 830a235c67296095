package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/serve"
)

// defaultSlots are few enough that an answer alone is as fast as ever, and enough for a team.
const defaultSlots = 4

func (p *program) serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "answer HTTP requests in the form of OpenAI's API",
		ArgsUsage: "MODEL",
		Description: "Endpoints are /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics. A line on standard\n" +
			"output tells the address when the model is loaded. SIGINT or SIGTERM ends the server: answers under way\n" +
			"may finish within --grace; a second signal ends it at once. Sampling flags are for requests that do not\n" +
			"say themselves.\n" + modelHelp + "\n\n" +
			"Example: qwenrt serve Qwen/Qwen3-0.6B --port 8080 --slots 8",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "host", Usage: "address to listen at; 0.0.0.0 for all of the machine's", Value: "127.0.0.1"},
			&cli.IntFlag{Name: "port", Usage: "port to listen at; 0 for a free one", Value: 8080},
			&cli.StringFlag{Name: "api-key", Usage: "`KEY` that requests need; better in the environment, where other users do not see it", EnvVars: []string{"QWENRT_API_KEY"}},
			&cli.StringFlag{Name: "alias", Usage: "`NAME` of the model for clients", DefaultText: "MODEL, without folders"},
			&cli.DurationFlag{Name: "grace", Usage: "how long answers under way may take to finish when the server is to end", Value: serve.DefaultGrace},
			&cli.IntFlag{Name: "slots", Usage: "answers made at a time, in common runs; more wait", DefaultText: strconv.Itoa(defaultSlots)},
			&cli.Int64Flag{Name: "prefix-cache", Usage: "memory for what prompts have in common, in `BYTES`", DefaultText: strconv.Itoa(prefixMemory)},
			boolFlag("think", "think first, where the model can choose"),
			boolFlag("no-think", "answer without thinking first"),
			&cli.IntFlag{Name: "threads", Usage: "CPU threads", DefaultText: "the CPUs that this process may use"},
			&cli.IntFlag{Name: "prefill-chunk", Usage: "tokens of the prompt that are run at once", Value: runner.DefaultPrefillChunk},
		}, slices.DeleteFunc(samplingFlags(), isSeed), speculationFlags(), runFlags(), hubFlags()),
		Action: p.serve,
	}
}

// isSeed: with one seed for all requests, the same question would always have the same answer.
func isSeed(f cli.Flag) bool { return f.Names()[0] == "seed" }

func (p *program) serve(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	conf, err := serveConfig(c)
	if err != nil {
		return err
	}
	request, err := p.request(c)
	if err != nil {
		return err
	}
	if c.IsSet("api-key") && c.String("api-key") == "" {
		return commandUsage(c, "--api-key, or QWENRT_API_KEY, is empty")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(c.String("host"), strconv.Itoa(c.Int("port"))))
	if err != nil {
		return err
	}
	s := serve.New(serve.Options{APIKey: c.String("api-key"), Grace: grace(c), Log: slog.New(slog.NewTextHandler(p.stderr, nil))})
	ctx, cancel := context.WithCancel(c.Context)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }() // requests are told that the model is being loaded
	release, err := p.load(c, arg, conf, request, s)
	if err != nil {
		cancel()
		<-ended
		return err
	}
	defer release()
	defer cancel()
	if c.String("api-key") == "" && !loopback(l.Addr()) {
		fmt.Fprintln(p.stderr, "anybody who reaches this address may use the model: --api-key asks for a key")
	}
	fmt.Fprintf(p.stdout, "%s is served at http://%s/v1\n", servedName(c, arg), l.Addr())
	return <-ended
}

// serveConfig is the configuration with what a server wants where it says nothing.
func serveConfig(c *cli.Context) (accelerate.Config, error) {
	return configOver(c, func(conf *accelerate.Config) {
		conf.Slots = cmp.Or(conf.Slots, defaultSlots)
		if !c.IsSet("prefix-cache") {
			conf.PrefixCache = cmp.Or(conf.PrefixCache, prefixMemory)
		}
	})
}

// grace is negative for 0: none.
func grace(c *cli.Context) time.Duration { return cmp.Or(c.Duration("grace"), -1) }

// load opens the model, and the draft model if there is one, for the server.
func (p *program) load(c *cli.Context, arg string, conf accelerate.Config, request runner.Request, s *serve.Server) (release func(), err error) {
	m, err := p.openAs(c, arg, conf)
	if err != nil {
		return nil, err
	}
	p.tellUnapplied(m.Info())
	release = func() { m.Close() }
	r, leave, err := m.Use()
	if err != nil {
		release()
		return nil, err
	}
	request.Sampling = new(overSampling(c, r.Info().Sampling))
	leave()
	if request.Draft, err = openDraft(c, conf); err != nil {
		release()
		return nil, err
	}
	if request.Draft != nil {
		release = func() { m.Close(); request.Draft.Close() }
	}
	s.SetModel(serve.Model{Name: servedName(c, arg), Use: m.Use, Defaults: request})
	return release, nil
}

// servedName is what clients call the model: its name on the hub, or that of its folder.
func servedName(c *cli.Context, arg string) string {
	name := arg
	if exists(arg) {
		if whole, err := filepath.Abs(arg); err == nil {
			name = whole
		}
		name = filepath.Base(name)
	}
	return cmp.Or(c.String("alias"), name)
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
