package runner_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// TestBeams compares with transformers: scripts/reference/beams.py.
func TestBeams(t *testing.T) {
	var cases []struct {
		Prompt        []int32
		End           []int32
		Beams         int      `json:"num_beams"`
		N             int      `json:"num_return_sequences"`
		MaxTokens     int      `json:"max_new_tokens"`
		MinTokens     int      `json:"min_new_tokens"`
		LengthPenalty *float64 `json:"length_penalty"`
		EarlyStopping bool     `json:"early_stopping"`
		Repetition    float64  `json:"repetition_penalty"`
		NoRepeat      int      `json:"no_repeat_ngram_size"`
		StopStrings   []string `json:"stop_strings"`
		Answers       []struct {
			Tokens []int32
			Score  float64
		}
	}
	data, err := os.ReadFile("testdata/beams.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &cases))
	require.Len(t, cases, 33)
	r := open(t, folder, runner.Options{})
	for i, c := range cases {
		got := answersOf(t, r, runner.Request{
			Tokens: c.Prompt, Beams: c.Beams, N: c.N, MaxTokens: c.MaxTokens, MinTokens: c.MinTokens,
			LengthPenalty: c.LengthPenalty, EarlyStopping: c.EarlyStopping, StopTokens: c.End, StopStrings: c.StopStrings, IgnoreEOS: true,
			Sampling: &sample.Params{RepetitionPenalty: c.Repetition, NoRepeatNgram: c.NoRepeat},
		})
		require.Len(t, got, len(c.Answers))
		for j, want := range c.Answers {
			require.Equal(t, want.Tokens, append([]int32{}, got[j].Tokens...), "case %d, answer %d", i, j)
			require.InDelta(t, want.Score, got[j].Result.Score, 1e-3)
			if len(want.Tokens) < c.MaxTokens {
				require.Equal(t, runner.Stop, got[j].Result.Reason)
			}
			for _, stop := range c.StopStrings {
				require.NotContains(t, got[j].Text, stop)
			}
		}
	}
}

// TestBeamsShareRuns holds that beams that are rows of a batch find the same.
func TestBeamsShareRuns(t *testing.T) {
	m := talker(t)
	q := runner.Request{Prompt: "One two", Beams: 3, N: 2, MaxTokens: 8, IgnoreEOS: true, Sampling: greedy}
	alone := answersOf(t, m.open(t, runner.Options{}), q)
	require.Len(t, alone, 2)
	require.NotEqual(t, alone[0].Tokens, alone[1].Tokens)
	require.GreaterOrEqual(t, alone[0].Result.Score, alone[1].Result.Score)
	for _, slots := range []int{1, 4} {
		together := answersOf(t, m.open(t, runner.Options{Slots: slots}), q)
		for i := range alone {
			require.Equal(t, alone[i].Tokens, together[i].Tokens)
			require.Equal(t, alone[i].Text, together[i].Text)
		}
	}
	q.Beams, q.N = 1, 0
	one := answersOf(t, m.open(t, runner.Options{}), q)[0]
	q.Beams = 0
	require.Equal(t, answersOf(t, m.open(t, runner.Options{}), q)[0].Tokens, one.Tokens, "one beam is greedy")
}
