#!/bin/sh
# Refuses pushes as GitLab does: to protected branches (`stand/protected`, one name a line), and as many as
# `stand/reject` says as if GitLab itself were ill. What is not refused may still lose a race.
if [ -f stand/reject ]; then
  read -r left <stand/reject
  if [ "$left" -gt 0 ]; then
    echo "$((left - 1))" >stand/reject
    echo "GitLab: Internal API unreachable" >&2
    exit 1
  fi
fi
while read -r _ _ ref; do
  if [ -f stand/protected ] && grep -qxF -e "${ref#refs/heads/}" stand/protected; then
    echo "GitLab: You are not allowed to push code to protected branches on this project." >&2
    exit 1
  fi
done
exec hooks/race during >&2
