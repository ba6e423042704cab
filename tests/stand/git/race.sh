#!/bin/sh
# Puts a commit of somebody else on a branch, as long as some are left for this moment ($1: before, during, after, or
# over: in the place of what was pushed). Runs when a push begins, while it is received, or when it is done. `stand/race.MOMENT` holds how many are left and the branch,
# `stand/race.edit` what the commit changes, as `git update-index --index-info` reads it.
set -e
cd "$(dirname "$0")/.."
[ -f "stand/race.$1" ] || exit 0
exec 9>stand/race.lock
flock 9
read -r left branch <"stand/race.$1"
[ "$left" -gt 0 ] || exit 0
echo "$((left - 1)) $branch" >"stand/race.$1"
# The objects of a push that is being received are kept apart; ours are not part of it.
unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
export GIT_DIR="$PWD" GIT_INDEX_FILE="$PWD/stand/race.index"
export GIT_AUTHOR_NAME=Somebody GIT_AUTHOR_EMAIL=somebody@example.com
export GIT_COMMITTER_NAME=Somebody GIT_COMMITTER_EMAIL=somebody@example.com
parent=refs/heads/$branch
[ "$1" != over ] || parent=$parent^
git read-tree "$parent"
git update-index --add --index-info <stand/race.edit
tree=$(git write-tree)
commit=$(git commit-tree -p "$parent" -m "Somebody was faster" "$tree")
git update-ref "refs/heads/$branch" "$commit"
