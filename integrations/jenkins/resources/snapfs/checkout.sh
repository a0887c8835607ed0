# Writes the directory, in the lake mounted at LAKE, of VOLUME as of COMMIT (empty: HEAD): read-only, or with
# INTO a new volume.
[ -n "$COMMIT" ] || COMMIT=$(git rev-parse HEAD)
snapfs show "$VOLUME@$COMMIT" >&2
path=$LAKE/$VOLUME/.snap/$COMMIT
[ -d "$path" ] || { echo "there is no $path: is the lake mounted at $LAKE?" >&2; exit 1; }
if [ -n "$INTO" ]; then
    snapfs clone "$VOLUME@$COMMIT" "$INTO" >&2
    path=$LAKE/$INTO
fi
printf '%s\n' "$path"
