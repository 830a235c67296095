// Package accelerate makes a model that runs fast out of a checkpoint: it exports, optimises and
// quantises in one pass, from the mapped safetensors to the finished model folder.
//
//	report, err := accelerate.Build(ctx, accelerate.Source{Dir: "Qwen3-0.6B"},
//		accelerate.Output{Dir: "qwen3-int4"}, accelerate.Config{}, accelerate.Events{})
//	if err != nil {
//		return err
//	}
//	fmt.Println(report.BitsPerWeight)
//
// The graph exists in memory only and weights are lazy until the last step writes them, so nothing
// intermediate reaches the disk and memory does not grow with the model. [Export], [Optimize] and
// [Quantize] do one step each, from folder to folder, and give the same result in three passes.
// [Cached] builds into the user's cache, once for each checkpoint and configuration.
//
// An output folder appears under its name when it is complete, or not at all. The package never
// prints: [Events] tells what goes on. It never downloads anything.
package accelerate
