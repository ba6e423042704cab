#!/bin/sh
# What an SSH key of the Git server may do: $1 is `write` or `read`, $2 the folder of the repositories.
set -f
right=$1 root=$2
refuse() {
  echo "ERROR: $1" >&2
  exit 1
}
# The client sends a verb and a path in single quotes.
# shellcheck disable=SC2086
set -- $SSH_ORIGINAL_COMMAND
[ $# -eq 2 ] || refuse "Welcome! Only Git is served here."
name=$(printf %s "$2" | tr -d \')
name=${name#/}
case $name in
*/* | .* | '') refuse "The project you were looking for could not be found." ;;
esac
[ -d "$root/$name" ] || refuse "The project you were looking for could not be found."
case $1 in
git-upload-pack) ;;
git-receive-pack)
  [ "$right" = write ] || refuse "You are not allowed to push code to this project."
  "$root/$name/hooks/race" before >&2
  ;;
*) refuse "Only fetch and push are served here." ;;
esac
exec git-shell -c "$1 '$root/$name'"
