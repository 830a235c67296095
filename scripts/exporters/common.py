"""What the exporters' scripts share: their command line, and how a folder is finished."""

import argparse
import pathlib
import shutil

import onnx

SIDE_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
DATA = ".data"  # external data is called as the model is, with this behind


def run(doc, recipes, export):
    """Exports what the command line asks for: export(source, folder, **recipe) writes folder/model.onnx."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="Hugging Face folder")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder for the folders")
    parser.add_argument("--small", action="store_true", help="for tests: nothing but the model, without metadata")
    args = parser.parse_args()
    if unknown := set(args.names) - set(recipes):
        parser.error(f"unknown {', '.join(sorted(unknown))}: there are {', '.join(recipes)}")
    for name in args.names or recipes:
        folder = args.output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        export(args.model, folder, **recipes[name])
        if args.small:
            shrink(folder)
        print(folder)


def copy_side_files(source, folder):
    for name in SIDE_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def move_weights_out(path):
    """Moves the weights out of a model, as those of more than 2 GB must have them."""
    model = onnx.load(path)
    save(model, path)


def save(model, path):
    data = path.with_name(path.name + DATA)
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    data.chmod(0o644)


def shrink(folder):
    """Leaves of a folder what a test needs. Most of a small model is what it says of Python's stack."""
    for path in list(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".onnx", DATA) and path.name != "genai_config.json":
            path.unlink()
    for path in folder.rglob("*.onnx"):
        model = onnx.load(path)
        model.ClearField("metadata_props")
        graph = model.graph
        graph.ClearField("metadata_props")
        for item in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
            item.ClearField("metadata_props")
            item.doc_string = ""
        save(model, path)
