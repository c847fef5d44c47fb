"""Asks a trained policy: the prompts of a file, a talk in the terminal, or a server for programs.

rlhf-jax write runs/mini --prompts=posts.jsonl --out=written.jsonl
rlhf-jax write runs/mini --stage=sft < posts.txt
rlhf-jax write exported/ppo --serve

The first argument is a run's work folder, or a folder that rlhf-jax export or another program wrote.

--stage=STAGE     which network of a run, such as sft; without it, the last policy that it trained
--prompts=FILE    the prompts, one a line: text, or JSON if the name ends in .jsonl or the first line begins
                  with {, each a record of the task (as a post), {"prompt": …} or {"messages": […]}. Without
                  it, standard input; where that is a terminal, what is typed there
--out=FILE        where to write: each line's fields with "response", and "finish", which is stop, or length
                  where it was cut off at --max_tokens; without it, standard output
--samples=NUMBER  responses to each prompt (1)
--temperature=T   0, the default, always takes the most likely token
--max_tokens=N    of a response; without it, as many as in training
--seed=NUMBER     of what is drawn (0): the same command writes the same
--serve           answers at http://HOST:PORT/v1, in the shape of OpenAI's API, until Ctrl-C; requests that
                  name no temperature and no seed get these
--port=NUMBER     (8000)
--host=ADDRESS    (127.0.0.1: this machine alone); whoever reaches another one can ask, without a key

The page of the documentation about all this is docs/howto/write.md.
"""

import socket
import sys
from contextlib import nullcontext

from absl import flags
from etils.epath import Path

from rlhf_jax import inference
from rlhf_jax.command_line import command, listen, parse_words
from rlhf_jax.inference import Network, NetworkError
from rlhf_jax.run.compilation_cache import keep_compiled
from rlhf_jax.writing import lines, terminal
from rlhf_jax.writing.prompts import Prompts, chat_of
from rlhf_jax.writing.writer import Writer

OF_FILES = ("prompts", "out", "samples", "max_tokens")  # options that --serve has no use for


def main(argv: list[str]) -> int:
    return command(argv, lambda: write(*_parse(argv)))


def _parse(argv: list[str]) -> tuple[str, flags.FlagValues]:
    """The folder, and the options."""
    options = flags.FlagValues()
    flags.DEFINE_string("stage", None, "the network of a run", flag_values=options)
    flags.DEFINE_string("prompts", None, "file of prompts", flag_values=options)
    flags.DEFINE_string("out", None, "file to write", flag_values=options)
    flags.DEFINE_integer("samples", 1, "responses to each prompt", 1, flag_values=options)
    flags.DEFINE_float("temperature", 0.0, "of the samples", 0.0, flag_values=options)
    flags.DEFINE_integer("max_tokens", None, "of a response", 1, flag_values=options)
    flags.DEFINE_integer("seed", 0, "of the samples", 0, flag_values=options)
    flags.DEFINE_bool("serve", False, "answer over HTTP", flag_values=options)
    flags.DEFINE_integer("port", 8000, "port", 1, 65535, flag_values=options)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at", flag_values=options)
    places = parse_words(argv, options)
    if len(places) != 1:
        raise flags.Error("one folder is wanted, of a run or an exported model; --help shows the usage")
    without = OF_FILES if options.serve else ("port", "host")
    given = [f"--{name}" for name in without if options[name].present]
    if given:
        raise flags.Error(f"{', '.join(given)}: not used {'with' if options.serve else 'without'} --serve")
    return places[0], options


def write(place: str, options: flags.FlagValues) -> None:
    """Does what the options say with the policy in a folder."""
    terminal_asks = not options.serve and options.prompts is None and sys.stdin.isatty()
    if terminal_asks and (options.out or options.samples > 1):
        raise flags.Error("--out and --samples: for --prompts=FILE or prompts on standard input")
    if options.out and Path(options.out).exists():
        raise flags.Error(f"--out: {options.out} is there already; name a new file")
    listening = listen(options.host, options.port) if options.serve else None  # told before what takes long
    source = open(options.prompts, "rb") if options.prompts else nullcontext(sys.stdin.buffer)  # noqa: SIM115
    keep_compiled(place)
    with source as file:
        network, name = find(place, options.stage)
        prompts = Prompts(network, chat_of(network, place))
        writer = Writer(network, prompts.ends)
        sampling = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        if listening:
            serve(writer, prompts, name, options, listening)
        elif terminal_asks:
            terminal.talk(writer, prompts, options.seed, **sampling)
        else:
            asked = lines.read_lines(file, options.prompts or "standard input", prompts)
            lines.tell_cut(asked)
            answers = lines.answer(writer, asked, options.samples, options.seed, **sampling)
            lines.write_lines(answers, options.out)


def find(place: str, stage: str | None) -> tuple[Network, str]:
    """The policy in a folder, and the name that it is served under. Raises NetworkError where it is none."""
    folder = Path(place).expanduser()
    if not (folder / "checkpoints").is_dir():
        if stage:
            raise NetworkError(f"--stage={stage}: {place} is not the work folder of a run")
        return _policy(inference.load(folder), place), folder.absolute().name
    if stage is None:
        policies = inference.policies_of(folder)
        if not policies:
            raise NetworkError(f"{place}: none of its policies has a finished checkpoint")
        stage = policies[-1]
        others = f"; --stage names another: {', '.join(policies[:-1])}" if policies[1:] else ""
        print(f"{place}: {stage} writes{others}", file=sys.stderr)
    return _policy(inference.load(folder, stage), stage), stage


def _policy(network: Network, told: str) -> Network:
    if network.is_scalar:
        raise NetworkError(f"{told} is a reward model, which scores responses and writes none: name a policy")
    return network


def serve(
    writer: Writer, prompts: Prompts, name: str, options: flags.FlagValues, listening: socket.socket
) -> None:
    """Answers over HTTP until Ctrl-C."""
    from rlhf_jax.writing import server  # whose web server the other uses do without

    here = options.host in server.LOCAL
    if not here:
        print(
            f"--host={options.host}: whoever reaches this address can ask; there is no key", file=sys.stderr
        )
    print(f"{name} answers at http://{options.host}:{options.port}/v1; Ctrl-C ends it.", flush=True)
    asked = server.Server(writer, prompts, name, options.temperature, options.seed)
    server.run(asked, listening, server.LOCAL if here else ["*"])
