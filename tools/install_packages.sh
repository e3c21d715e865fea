#!/usr/bin/env bash
# Installs the distribution packages that are missing (tools/packages.txt). Does nothing, and needs no rights, when all
# are there.
#
#   tools/install_packages.sh build               what compiling and running needs
#   tools/install_packages.sh build test          the test suite besides
#   tools/install_packages.sh build test long     the sanitizer and fuzzing part of tools/test.sh --long besides
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
groups=" ${*:-build} "

missing=()
while read -r group package; do
  [[ $group == \#* || -z $group || $groups != *" $group "* ]] && continue
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done < "$here/packages.txt"
[[ ${#missing[@]} -eq 0 ]] && exit 0

echo "installing: ${missing[*]}"
run=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || { echo "error: these packages are missing and there is no sudo to install them: ${missing[*]}" >&2; exit 1; }
  run=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get update -qq
"${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
