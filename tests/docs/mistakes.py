"""The mistakes that are most likely, as they are made: a command line or a request, on the files of mistake_desk.

`do` is what to do next, in the words of docs/mistakes.md. `python -m tests.docs.mistake_page` writes that page.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """`made` is a command, or METHOD PATH BODY. `where`: at which server, or what is missing on the machine."""

    what: str
    made: str
    do: str
    where: str = ""


LONG = "word " * 5000

TALKING = (
    Mistake("no server is running", "interns1 ps", "`interns1 serve`", "no server"),
    Mistake("the port is taken", "interns1 serve", "use the server that runs, or `--host 127.0.0.1:11435`"),
    Mistake("a command is misspelt", "interns1 lst", "`interns1 --help`"),
    Mistake("an option is misspelt", "interns1 list --jsn", "`interns1 list --help`"),
    Mistake("an argument is missing", "interns1 pull", "`interns1 pull nano`"),
    Mistake("a setting is no number", "INTERNS1_NUM_PARALLEL=many interns1 serve", "[settings](serving.md#settings)"),
    Mistake("a setting is no duration", "INTERNS1_KEEP_ALIVE=soon interns1 serve", "write `5m`, `1h`, `-1`"),
    Mistake("the server asks for a key", "GET /api/tags", "send the key in a header", "locked"),
    Mistake("the key is wrong", "INTERNS1_API_KEY=wrong interns1 list", "ask whoever runs the server", "locked"),
    Mistake("the address does not exist", "GET /api/chats", "[routes](compatibility.md#routes)"),
    Mistake("GET in place of POST", "GET /api/chat", "`curl -d` sends a POST"),
    Mistake("the JSON is broken", 'POST /api/chat {"model": "nano",', "check quotes and commas"),
    Mistake("a web page of another origin", "GET /api/tags Origin: https://a.example", "`INTERNS1_ORIGINS`"),
    Mistake("a host name that leads here", "GET /api/tags Host: a.example", "use 127.0.0.1 or localhost"),
)

NAMES = (
    Mistake("the model is misspelt", 'POST /api/chat {"model": "nanno", "messages": []}', "`interns1 list`"),
    Mistake("the same, with OpenAI's client", 'POST /v1/chat/completions {"model": "nanno"}', "`interns1 list`"),
    Mistake("no model is named", 'POST /api/chat {"messages": []}', 'add `"model": "nano"`'),
    Mistake("a name with a space", 'interns1 cp nano "my model"', "letters, digits, `-`, `_`, `.`"),
    Mistake("remove what is not there", "interns1 rm nanno", "`interns1 list`"),
    Mistake("stop what is not there", "interns1 stop nanno", "`interns1 ps`"),
    Mistake("pull what is not there", "interns1 pull REGISTRY/lab/nanno --insecure", "check the name"),
    Mistake("the registry cannot be reached", "interns1 pull 127.0.0.1:9/lab/nano --insecure", "check the network"),
    Mistake("a registry without TLS", "interns1 pull REGISTRY/lab/nano", "`--insecure`, if you trust it"),
    Mistake("a hub's repository is not there", "interns1 pull hf.co/lab/nanno", "check the name", "locked"),
)

ASKING = (
    Mistake("an option is unknown", "interns1 run nano hi --option temprature=1", "see the hint"),
    Mistake("an option is no number", "interns1 run nano hi --option temperature=warm", "a number"),
    Mistake(
        "the same over HTTP",
        'POST /api/generate {"model": "nano", "prompt": "hi", "options": {"temperature": "warm"}}',
        "a number",
    ),
    Mistake("an adapter that the model does not have", "interns1 run nano hi --option adapter=chem", "`interns1 show`"),
    Mistake(
        "an option is out of range",
        'POST /v1/chat/completions {"model": "nano", "messages": [{"role": "user", "content": "hi"}], "n": 5000}',
        "a smaller number",
    ),
    Mistake("the context is negative", 'POST /api/generate {"model": "nano", "options": {"num_ctx": -5}}', "1 or more"),
    Mistake(
        "the prompt is too long",
        f'POST /api/generate {{"model": "nano", "prompt": "{LONG}"}}',
        "a shorter prompt, or a larger `num_ctx`",
    ),
    Mistake("the picture is not there", "interns1 run nano hi --image none.png", "check the path"),
    Mistake("the file is no picture", "interns1 run nano hi --image papers.txt", "PNG, JPEG, WebP, GIF, BMP or TIFF"),
    Mistake(
        "the picture is broken",
        'POST /api/chat {"model": "nano", "messages": [{"role": "user", "content": "hi", "images": ["iVBORw0KGgo="]}]}',
        "send the whole file in base64",
    ),
    Mistake(
        "the picture is an address",
        'POST /v1/chat/completions {"model": "nano", "messages": [{"role": "user", "content": '
        '[{"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}]}]}',
        "[pictures from the web](security.md#pictures-from-the-web)",
    ),
    Mistake("a picture for a model that sees none", "interns1 run text hi --image picture.png", "a model with vision"),
    Mistake("a thought of a model that has none", "interns1 run reward hi --think", "leave out `--think`"),
    Mistake("a level of thinking that is none", "interns1 run nano hi --think=hard", "one of those named"),
    Mistake(
        "a schema with an unknown type",
        'POST /api/chat {"model": "nano", "messages": [{"role": "user", "content": "hi"}], "format": '
        '{"type": "objekt"}}',
        "`object`, `string`, `integer`, ...",
    ),
    Mistake(
        "a tool choice that names no tool",
        'POST /v1/chat/completions {"model": "nano", "messages": [{"role": "user", "content": "hi"}], '
        '"tools": [{"type": "function", "function": {"name": "add"}}], '
        '"tool_choice": {"type": "function", "function": {"name": "sub"}}}',
        "the name of one of `tools`",
    ),
    Mistake(
        "a role that is none",
        'POST /api/create {"model": "mine", "from": "nano", "messages": [{"role": "human", "content": "hi"}]}',
        "`user`",
    ),
    Mistake("keep_alive without a unit", "interns1 run nano hi --keepalive 5minutes", "`5m`"),
    Mistake(
        "scores of a chat model",
        'POST /api/score {"model": "text", "messages": [{"role": "user", "content": "hi"}]}',
        "a reward model",
    ),
    Mistake(
        "a chat with a reward model",
        'POST /api/chat {"model": "reward", "messages": [{"role": "user", "content": "hi"}]}',
        "`POST /api/score`",
    ),
    Mistake("a format that is none", "interns1 run nano hi --format yaml", "`json` or a schema"),
)

MAKING = (
    Mistake("there is no Modelfile", "interns1 create mine", "`-f FILE`"),
    Mistake("an unknown instruction", "interns1 create mine -f unknown.Modelfile", "one of those named"),
    Mistake("no FROM", "interns1 create mine -f nofrom.Modelfile", "name a model or a file"),
    Mistake("a quote that is not closed", "interns1 create mine -f open.Modelfile", "close it"),
    Mistake(
        "an unknown parameter", "interns1 create mine -f parameter.Modelfile", "[options](compatibility.md#options)"
    ),
    Mistake("the file of FROM is not there", "interns1 create mine -f nofile.Modelfile", "check the path"),
    Mistake("the file is no GGUF", "interns1 create mine -f notgguf.Modelfile", "convert it first"),
    Mistake("the GGUF file is cut", "interns1 create mine -f cut.Modelfile", "download it again"),
    Mistake("the vision file of another model", "interns1 create mine -f other.Modelfile", "take the model's own"),
    Mistake("an unknown type", "interns1 create mine -f Modelfile.good -q Q4_K_X", "one of those named"),
)

CONVERTING = (
    Mistake("a folder without config.json", "interns1 convert empty -o out.gguf", "name the checkpoint's folder"),
    Mistake("the folder is not there", "interns1 convert none -o out.gguf", "check the path"),
    Mistake("an unsupported architecture", "interns1 convert gpt2 -o out.gguf", "[models](models.md)"),
    Mistake("a shard is missing", "interns1 convert lacking -o out.gguf", "download it again"),
    Mistake("an unknown type", "interns1 convert Intern-S1-mini -o out.gguf --type Q4", "see the hint"),
    Mistake("the output exists", "interns1 convert Intern-S1-mini -o model-F16.gguf", "`--force`, or another name"),
    Mistake("its folder does not exist", "interns1 convert Intern-S1-mini -o none/out.gguf", "make it"),
    Mistake("no permission", "interns1 convert Intern-S1-mini -o out.gguf", "another folder", "no permission"),
    Mistake("the disk is full", "interns1 convert Intern-S1-mini -o out.gguf", "make room, run it again", "full disk"),
    Mistake("a type that needs a matrix", "interns1 quantize model-F16.gguf out.gguf IQ2_XS", "`interns1 imatrix`"),
    Mistake("the input is no GGUF", "interns1 quantize papers.txt out.gguf Q8_0", "a GGUF file"),
    Mistake("a size that nothing fits", "interns1 quantize model-F16.gguf out.gguf --fit 1MB", "a larger size"),
    Mistake(
        "a rule that is none", "interns1 quantize model-F16.gguf out.gguf Q8_0 --tensor-type attn_v", "`attn_v=q8_0`"
    ),
    Mistake("no data", "interns1 imatrix model-F16.gguf --data none.txt -o out.gguf", "check the path"),
    Mistake("no text in the data", "interns1 imatrix model-F16.gguf --data short.txt -o out.gguf", "a longer text"),
    Mistake("torch is missing", "interns1 verify model-F16.gguf --against Intern-S1-mini", "install it", "no torch"),
    Mistake("RDKit is missing", "interns1 tokenize nano CCO", "install it", "no rdkit"),
)

SECTIONS = {
    "Talking to the server": TALKING,
    "Names of models": NAMES,
    "Asking": ASKING,
    "Making a model": MAKING,
    "Converting and measuring": CONVERTING,
}
