// Package folder is the model folder that every command reads and writes:
//
//	model.onnx, model.onnx.data   the graph and its weights
//	config.json, tokenizer.json…  carried along from the checkpoint
//	genai_config.json             so that onnxruntime-genai opens the same folder
//	qwenrt.json                   what was done to the model, from the checkpoint on
//
// A folder is put together under a temporary name and takes its own when it is complete:
//
//	stage, err := folder.Create("out", false)
//	if err != nil {
//		return err
//	}
//	defer stage.Abort()
//	if err := ir.Save(ctx, model, stage.Path(folder.ModelName), ir.SaveOptions{}); err != nil {
//		return err
//	}
//	if _, err := stage.CopySideFiles(checkpoint); err != nil {
//		return err
//	}
//	if err := manifest.Write(stage.Dir()); err != nil {
//		return err
//	}
//	return stage.Commit()
//
// The package replaces nothing but model folders, and never looks into weights or runs a model.
package folder
