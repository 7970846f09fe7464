"""The completion scripts for bash, zsh and fish, from a grammar. What a store knows they ask `monofs __complete`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

Kind = Literal["target", "kept", "image", "mountpoint", "machine", "member", "script", "file", "directory", "word"]
Value = Kind | tuple[str, ...]  # a kind of thing, or the words to choose from

STORED: Final = ("target", "kept", "image", "mountpoint", "machine", "member", "script")  # the kinds that are asked for


class Option(NamedTuple):
    """`value` is None for an option that takes none."""

    names: tuple[str, ...]
    help: str
    value: Value | None


class Grammar(NamedTuple):
    """A verb, its options and its positionals; with `repeats` the last one goes on for ever."""

    verb: str
    summary: str
    options: list[Option]
    positionals: list[Value]
    repeats: bool


# bash

_BASH: Final = r"""# bash completion for monofs; made by 'monofs completion bash'

_monofs() {
    local verb= expect= word kind cur raw
    local -a words=() store=()
    local -i position=0
    _monofs_words
    raw=${words[-1]} cur=${raw//[\\\'\"]/}
    unset 'words[-1]'
    for word in "${words[@]:1}"; do
        word=${word//[\\\'\"]/}
        if [[ $expect ]]; then
            [[ $expect == --store ]] && store=(--store "${word/#\~\//$HOME/}")
            expect=
        elif [[ $word == --store=* ]]; then
            store=("$word")
        elif [[ $word == -* ]]; then
            case "$verb $word" in
                *' --store' | @VALUED@) expect=$word ;;
            esac
        elif [[ ! $verb ]]; then
            verb=$word
        elif [[ ' @FAMILIES@ ' == *" $verb "* ]]; then
            verb+=" $word"
        else
            position+=1
        fi
    done
    if [[ $expect ]]; then
        kind=$(_monofs_value "$verb $expect")
    elif [[ $cur == -* ]]; then
        kind="words $(_monofs_options "$verb")"
    elif [[ $verb ]]; then
        kind=$(_monofs_positional "$verb" $position)
    else
        kind='words @VERBS@'
    fi
    COMPREPLY=()
    case $kind in
        words*) mapfile -t COMPREPLY < <(compgen -W "${kind#words}" -- "$cur") ;;
        file) compopt -o default ;;
        directory) compopt -o dirnames ;;
        @STORED@) _monofs_ask "$kind" ;;
    esac
}

# The words up to the cursor, still quoted. Bash has them split at the : and = that names and options hold.
_monofs_words() {
    local rest=${COMP_LINE:0:COMP_POINT} word before
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        before=$rest
        rest=${rest#"${rest%%[![:blank:]]*}"}
        [[ $rest == "$word"* ]] || word=$rest # the cursor is inside of it
        if [[ $rest == "$before" && ${#words[@]} -gt 0 ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${rest#"$word"}
    done
}

_monofs_ask() {
    local found colon=
    # readline takes a word to begin after a colon
    [[ $raw == *:* && $COMP_WORDBREAKS == *:* ]] && colon=${cur%"${cur##*:}"}
    while IFS= read -r found; do
        found=${found#"$colon"}
        [[ $raw == [\'\"]* ]] || printf -v found %q "$found"
        COMPREPLY+=("$found")
        [[ $found == */ ]] && compopt -o nospace
    done < <("${words[0]}" "${store[@]}" __complete "$1" "$cur" 2>/dev/null)
}

_monofs_options() {
    case $1 in
@OPTIONS@
        *) echo '--store --help --version' ;;
    esac
}

_monofs_value() {
    case $1 in
        *' --store') echo directory ;;
@VALUES@
    esac
}

_monofs_positional() {
    case "$1 $2" in
@POSITIONALS@
    esac
}

complete -F _monofs monofs
"""


def bash(grammars: list[Grammar]) -> str:
    valued = [(f"{g.verb} {name}", option.value) for g in grammars for option in g.options for name in option.names]
    values = [(pattern, value) for pattern, value in valued if value is not None and not pattern.endswith(" --store")]
    return _filled(
        _BASH,
        VALUED=" | ".join(f"'{pattern}'" for pattern, _ in values),
        VERBS=" ".join(_first_words(grammars)),
        FAMILIES=" ".join(_families(grammars)),
        STORED=" | ".join(STORED),
        OPTIONS=_cases((shlex.quote(g.verb), " ".join(name for o in g.options for name in o.names)) for g in grammars),
        VALUES=_cases((shlex.quote(pattern), _bash_kind(value)) for pattern, value in values),
        POSITIONALS=_cases(_bash_positionals(grammars)),
    )


def _bash_positionals(grammars: list[Grammar]) -> Iterator[tuple[str, str]]:
    for family, members in _families(grammars).items():
        yield f"'{family} 0'", " ".join(["words", *(g.verb.partition(" ")[2] for g in members)])
    for g in grammars:
        for index, value in enumerate(g.positionals):
            last = g.repeats and index == len(g.positionals) - 1
            yield (f"'{g.verb} '*" if last else f"'{g.verb} {index}'"), _bash_kind(value)


def _first_words(grammars: list[Grammar]) -> list[str]:
    return list(dict.fromkeys(g.verb.partition(" ")[0] for g in grammars))


def _families(grammars: list[Grammar]) -> dict[str, list[Grammar]]:
    """Return the first words that a second follows, each with its verbs."""
    found: dict[str, list[Grammar]] = {}
    for g in grammars:
        if " " in g.verb:
            found.setdefault(g.verb.partition(" ")[0], []).append(g)
    return found


def _bash_kind(value: Value) -> str:
    return value if isinstance(value, str) else " ".join(("words", *value))


def _cases(pairs: Iterator[tuple[str, str]]) -> str:
    return "\n".join(f"        {pattern}) echo {shlex.quote(text)} ;;" for pattern, text in pairs)


# zsh

_ZSH: Final = r"""#compdef monofs
# zsh completion for monofs; made by 'monofs completion zsh'

# _arguments puts options for compadd before what we gave it.
_monofs_ask() {
    local kind=$argv[-1]
    local -a found options=("${(@)argv[1,-2]}") ask=("${_monofs_store[@]}" __complete $kind "${(Q)PREFIX}")
    found=("${(@f)$(_call_program $kind monofs "${(@q)ask}" 2>/dev/null)}")
    found=(${found:#})
    compadd "${(@)options}" -S '' -- ${(M)found:#*/}
    compadd "${(@)options}" -- ${found:#*/}
}

_monofs() {
    local curcontext=$curcontext context state line at
    local -a _monofs_store
    local -A opt_args
    at=${words[(i)--store]}
    if (( at < $#words )); then
        _monofs_store=(--store ${(Q)~words[at + 1]})
    elif (( (at = ${words[(i)--store=*]}) <= $#words )); then
        _monofs_store=(${(Q)words[at]})
    fi
    _arguments -C -A '-*' \
        '--store[the store'\''s directory]:store:_files -/' \
        '(- *)--help[the commands]' \
        '(- *)--version[the version]' \
        '1:command:->command' \
        '*::argument:->argument' && return
    case $state in
        command)
            local -a commands=(
@COMMANDS@
            )
            _describe command commands
            ;;
        argument)
            case $words[1] in
@FAMILIES@
            esac
            case $words[1] in
@ARGUMENTS@
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _monofs ]]; then
    _monofs "$@"
else
    compdef _monofs monofs
fi
"""


def zsh(grammars: list[Grammar]) -> str:
    return _filled(
        _ZSH,
        COMMANDS="\n".join(_zsh_commands(grammars)),
        FAMILIES="\n".join(_zsh_family(name, members) for name, members in _families(grammars).items()),
        ARGUMENTS="\n".join(map(_zsh_arguments, grammars)),
    )


def _zsh_commands(grammars: list[Grammar]) -> Iterator[str]:
    summaries = {g.verb: g.summary for g in grammars}
    for word in _first_words(grammars):
        about = summaries.get(word, f"'monofs {word}' lists its commands")
        yield f"                {shlex.quote(f'{word}:{about}')}"


def _zsh_family(name: str, members: list[Grammar]) -> str:
    commands = " ".join(shlex.quote(f"{g.verb.partition(' ')[2]}:{g.summary}") for g in members)
    return "\n".join(
        " " * 16 + line
        for line in (
            f"{name})",
            "    if (( CURRENT == 2 )); then",
            f"        local -a members=({commands})",
            "        _describe command members",
            "        return",
            "    fi",
            '    words=("$words[1] $words[2]" "${(@)words[3,-1]}")',
            "    (( CURRENT-- ))",
            "    ;;",
        )
    )


def _zsh_arguments(g: Grammar) -> str:
    specs = [spec for option in g.options for spec in _zsh_option(option)]
    for index, value in enumerate(g.positionals):
        last = g.repeats and index == len(g.positionals) - 1
        specs.append(f"{'*' if last else index + 1}:{_zsh_kind(value)}")
    lines = " \\\n".join(f"                        {shlex.quote(spec)}" for spec in specs)
    pattern = shlex.quote(g.verb)
    return f"                {pattern})\n                    _arguments -s -S \\\n{lines}\n                    ;;"


def _zsh_option(option: Option) -> Iterator[str]:
    help_ = option.help.translate({ord("["): "(", ord("]"): ")", ord(":"): "\\:"})
    for name in option.names:
        others = f"({' '.join(option.names)})"
        if option.value is None:
            yield f"{others}{name}[{help_}]"
        else:
            yield f"{others}{name}{'=' if name.startswith('--') else ''}[{help_}]:{_zsh_kind(option.value)}"


def _zsh_kind(value: Value) -> str:
    if not isinstance(value, str):
        return f"choice:({' '.join(value)})"
    actions = {"file": "_files", "directory": "_files -/", "word": " "}
    return f"{value}:{actions.get(value, f'_monofs_ask {value}')}"


# fish

_FISH: Final = r"""# fish completion for monofs; made by 'monofs completion fish'

# Prints the store option, the command, and how many words followed it.
function __monofs_words
    set -l store
    set -l verb
    set -l position 0
    set -l expect
    for word in (commandline -opc)[2..-1]
        if set -q expect[1]
            test "$expect" = --store; and set store --store $word
            set -e expect
        else if string match -q -- '--store=*' $word
            set store $word
        else if string match -q -- '-*' $word
            contains -- "$word" --store; and set expect $word
            contains -- "$verb $word" @VALUED@; and set expect $word
        else if contains -- "$verb" @FAMILIES@
            set verb "$verb $word"
        else if set -q verb[1]
            set position (math $position + 1)
        else
            set verb $word
        end
    end
    printf '%s\n' "$verb" $position $store
end

function __monofs_at
    set -l words (__monofs_words)
    test "$words[1]" = $argv[1]; or return 1
    test (count $argv) -eq 1; and return 0
    test $words[2] $argv[2] $argv[3]
end

function __monofs_ask
    set -l words (__monofs_words)
    monofs $words[3..-1] __complete $argv[1] (commandline -ct) 2>/dev/null
end

complete -c monofs -f
complete -c monofs -n '__monofs_at ""' -l version -d 'print the version'
complete -c monofs -n '__monofs_at ""' -l help -d 'the commands'
complete -c monofs -l store -x -a '(__fish_complete_directories)' -d 'the store\'s directory'
@COMMANDS@
@ARGUMENTS@
"""


def fish(grammars: list[Grammar]) -> str:
    return _filled(
        _FISH,
        VALUED=" ".join(
            f"'{g.verb} {name}'" for g in grammars for o in g.options if o.value is not None for name in o.names
        ),
        FAMILIES=" ".join(_families(grammars)) or "''",
        COMMANDS="\n".join(_fish_commands(grammars)),
        ARGUMENTS="\n".join(line for g in grammars for line in _fish_arguments(g)),
    )


def _fish_commands(grammars: list[Grammar]) -> Iterator[str]:
    for g in grammars:
        first, _, second = g.verb.partition(" ")
        if second:
            yield _fish_line(f"__monofs_at {first}", f"-a {second}", g.summary)
        else:
            yield _fish_line('__monofs_at ""', f"-a {first}", g.summary)
    for family in _families(grammars):
        yield _fish_line('__monofs_at ""', f"-a {family}", f"see monofs {family} --help")


def _fish_arguments(g: Grammar) -> Iterator[str]:
    for option in g.options:
        if option.names == ("--store",):
            continue
        names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
        value = "" if option.value is None else " " + _fish_kind(option.value)
        yield _fish_line(f'__monofs_at "{g.verb}"', names + value, option.help)
    for index, kind in enumerate(g.positionals):
        last = g.repeats and index == len(g.positionals) - 1
        if kind != "word":
            yield _fish_line(f'__monofs_at "{g.verb}" {"-ge" if last else "-eq"} {index}', _fish_kind(kind), "")


def _fish_kind(value: Value) -> str:
    if not isinstance(value, str):
        return f"-x -a '{' '.join(value)}'"
    actions = {"file": "-F -r", "directory": "-x -a '(__fish_complete_directories)'", "word": "-x"}
    return actions.get(value, f"-x -a '(__monofs_ask {value})'")


def _fish_line(condition: str, what: str, help: str) -> str:
    said = " -d '{}'".format(help.replace("\\", "\\\\").replace("'", "\\'")) if help else ""
    return f"complete -c monofs -n '{condition}' {what}{said}"


def _filled(template: str, **parts: str) -> str:
    for key, text in parts.items():
        template = template.replace(f"@{key}@", text)
    return template
