package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// texts is the value of a flag that may be given more than once. Unlike the library's, it does not cut
// values at commas.
type texts []string

func (t *texts) Set(s string) error { *t = append(*t, s); return nil }
func (t *texts) String() string     { return strings.Join(*t, " ") }

func textsFlag(name, usage string) cli.Flag {
	return &cli.GenericFlag{Name: name, Usage: usage + "; may be given more than once", Value: &texts{}}
}

func textsOf(c *cli.Context, name string) []string {
	if t, ok := c.Generic(name).(*texts); ok {
		return *t
	}
	return nil
}

// answerFlags say what an answer is.
func answerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-tokens", Usage: "length of the answer", DefaultText: "what is left of the context"},
		&cli.IntFlag{Name: "min-tokens", Usage: "tokens before which the answer may not end"},
		&cli.IntFlag{Name: "n", Usage: "number of answers", Value: 1},
		&cli.IntFlag{Name: "beams", Usage: "search for the best answers with `N` beams; there is no sampling then"},
		&cli.Float64Flag{Name: "length-penalty", Usage: "with --beams, the power of its length that an answer's score is divided by", Value: 1},
		boolFlag("early-stopping", "with --beams, end when there are as many answers as beams"),
		textsFlag("stop", "`TEXT` that ends the answer and is no part of it"),
		textsFlag("stop-token", "`ID` of a token that does"),
		boolFlag("ignore-eos", "go on behind the model's end tokens"),
		boolFlag("echo", "begin the answer with the prompt"),
		boolFlag("show-special", "keep special tokens in the text"),
		&cli.IntFlag{Name: "logprobs", Usage: "with --json, give the log-probability of each token, and `N` of the likeliest beside it"},
	}
}

// modelsOwn is the default of what generation_config.json may recommend.
const modelsOwn = "the model's own"

// samplingFlags override what generation_config.json recommends.
func samplingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Float64Flag{Name: "temperature", Usage: "0 is greedy", DefaultText: modelsOwn},
		&cli.IntFlag{Name: "top-k", Usage: "keep the k most likely tokens; 0 keeps all", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "top-p", Usage: "keep the fewest tokens that have this probability together; 1 keeps all", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "min-p", Usage: "keep tokens with this share of the likeliest one's probability", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "typical-p", Usage: "keep the most typical tokens that have this probability together; 1 keeps all"},
		&cli.Float64Flag{Name: "repetition-penalty", Usage: "above 1 avoids what was said", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "frequency-penalty", Usage: "avoids what the answer has, for each time; from -2 to 2"},
		&cli.Float64Flag{Name: "presence-penalty", Usage: "avoids what the answer has; from -2 to 2"},
		&cli.IntFlag{Name: "no-repeat-ngram", Usage: "no `N` tokens come a second time in the same order"},
		textsFlag("logit-bias", "add to the logit of a token, as `ID=BIAS`"),
		&cli.Uint64Flag{Name: "seed", Usage: "of the random numbers", DefaultText: "another one each time"},
	}
}

// overSampling puts the flags that were given over the model's own values.
func overSampling(c *cli.Context, s sample.Params) sample.Params {
	for name, v := range map[string]*float64{
		"temperature": &s.Temperature, "top-p": &s.TopP, "min-p": &s.MinP, "typical-p": &s.TypicalP,
		"repetition-penalty": &s.RepetitionPenalty, "frequency-penalty": &s.FrequencyPenalty, "presence-penalty": &s.PresencePenalty,
	} {
		if c.IsSet(name) {
			*v = c.Float64(name)
		}
	}
	for name, v := range map[string]*int{"top-k": &s.TopK, "no-repeat-ngram": &s.NoRepeatNgram} {
		if c.IsSet(name) {
			*v = c.Int(name)
		}
	}
	if c.Int("beams") > 1 && !c.IsSet("temperature") {
		s.Temperature = 0
	}
	s.LogitBias, _ = biases(textsOf(c, "logit-bias"))
	s.Seed = rand.Uint64()
	if c.IsSet("seed") {
		s.Seed = c.Uint64("seed")
	}
	return s
}

// biases reads ID=BIAS.
func biases(list []string) (map[int32]float64, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[int32]float64{}
	for _, s := range list {
		id, value, _ := strings.Cut(s, "=")
		token, err := tokenID(id)
		bias, numErr := strconv.ParseFloat(value, 64)
		if err != nil || numErr != nil {
			return nil, fmt.Errorf("--logit-bias %q: want ID=BIAS, such as 42=-5", s)
		}
		m[token] = bias
	}
	return m, nil
}

func tokenID(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	return int32(id), err
}

// request reads the flags of a generation, all but the prompt and the model's own sampling.
func (p *program) request(c *cli.Context) (runner.Request, error) {
	q := runner.Request{
		MaxTokens: c.Int("max-tokens"), MinTokens: c.Int("min-tokens"), N: c.Int("n"),
		IgnoreEOS: c.Bool("ignore-eos"), Echo: c.Bool("echo"), ShowSpecial: c.Bool("show-special"),
		StopStrings: textsOf(c, "stop"), Logprobs: c.IsSet("logprobs"), TopLogprobs: c.Int("logprobs"),
		Speculate: speculation(c), Beams: c.Int("beams"), EarlyStopping: c.Bool("early-stopping"),
	}
	if err := requestFaults(c); err != nil {
		return q, err
	}
	if c.IsSet("length-penalty") {
		q.LengthPenalty = new(c.Float64("length-penalty"))
	}
	for _, s := range textsOf(c, "stop-token") {
		id, err := tokenID(s)
		if err != nil {
			return q, commandUsage(c, "--stop-token %q: want the id of a token", s)
		}
		q.StopTokens = append(q.StopTokens, id)
	}
	if c.Bool("think") || c.Bool("no-think") {
		q.Think = new(c.Bool("think"))
	}
	if path := c.String("tools"); path != "" {
		var err error
		if q.Tools, err = readTools(path); err != nil {
			return q, err
		}
	}
	if c.IsSet("tool-choice") {
		q.ToolChoice, q.Tool = toolChoice(c.String("tool-choice"))
	}
	return q, nil
}

// toolChoice reads a word, or the name of a tool.
func toolChoice(word string) (choice runner.ToolChoice, tool string) {
	if choice, ok := runner.ParseToolChoice(word); ok {
		return choice, ""
	}
	return runner.ToolRequired, word
}

// requestFaults finds what is wrong with the flags, before a model is loaded.
func requestFaults(c *cli.Context) error {
	if c.Bool("no-chat") {
		for _, name := range []string{"system", "think", "no-think", "tools", "tool-choice"} {
			if c.IsSet(name) {
				return commandUsage(c, "--%s belongs to the chat template, which --no-chat leaves out", name)
			}
		}
	}
	if c.Bool("think") && c.Bool("no-think") {
		return commandUsage(c, "--think and --no-think exclude each other")
	}
	if c.IsSet("tool-choice") && !c.IsSet("tools") && !c.IsSet("batch") {
		return commandUsage(c, "--tool-choice is for --tools")
	}
	if c.IsSet("logprobs") && !c.Bool("json") && !c.IsSet("batch") {
		return commandUsage(c, "--logprobs is for --json and --batch")
	}
	for _, name := range []string{"max-tokens", "n", "beams"} {
		if n := c.Int(name); n < 0 || c.IsSet(name) && n == 0 {
			return commandUsage(c, "--%s is %d: want 1 or more", name, n)
		}
	}
	if _, err := biases(textsOf(c, "logit-bias")); err != nil {
		return commandUsage(c, "%v", err)
	}
	if err := overSampling(c, sample.Params{}).Validate(); err != nil {
		return commandUsage(c, "%s", strings.TrimPrefix(err.Error(), "sample: "))
	}
	return nil
}

const maxTools = 16 << 20

func readTools(path string) (tools []json.RawMessage, err error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxTools {
		err = fmt.Errorf("larger than %s", bytesText(maxTools))
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(data, &tools)
	}
	if err == nil && len(tools) == 0 {
		err = errors.New("the list is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("read tools from %s: want a JSON list of objects: %w", path, err)
	}
	return tools, nil
}
