# Snapshots VOLUME under the ID of the commit at HEAD, recording BRANCH; writes VOLUME@SNAPSHOT.
made=$(snapfs create "$VOLUME" --git-commit --branch "$BRANCH")
printf '%s\n' "${made%% (*}"
