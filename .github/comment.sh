#!/usr/bin/env bash
# Post a file as the pull request's one comment about metrics, or update that comment: comment.sh FILE.
# REPOSITORY and SHA, of the pull request's head, say where. The file comes from a run of somebody else's code: it is
# cut, and only characters pass that a table, a parameter or a chart needs: no tag, link, mention or picture.
set -euo pipefail
marker='<!-- metrics -->'
number=$(gh api "repos/$REPOSITORY/pulls?state=open&per_page=100" --paginate --jq '.[] | select(.head.sha == env.SHA) | .number' | head -n 1)
if [ -z "$number" ]; then
	echo "no open pull request has the head $SHA"
	exit 0
fi
body=$(mktemp)
{
	echo "$marker"
	head -c 60000 "$1" | LC_ALL=C tr -cd '[:alnum:] .,:;|_*+%=/"`>[]\n-' | sed 's/]:/] :/g; s#://#: //#g; s/www\./www ./Ig'
} > "$body"
comment=$(gh api "repos/$REPOSITORY/issues/$number/comments?per_page=100" --paginate \
	--jq ".[] | select(.user.login == \"github-actions[bot]\" and (.body | startswith(\"$marker\"))) | .id" | head -n 1)
if [ -n "$comment" ]; then
	gh api --method PATCH "repos/$REPOSITORY/issues/comments/$comment" --field "body=@$body" --silent
else
	gh api --method POST "repos/$REPOSITORY/issues/$number/comments" --field "body=@$body" --silent
fi
