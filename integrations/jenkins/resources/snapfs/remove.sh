# Removes the volume INTO that checkout.sh made.
snapfs volume rm --snapshots "$INTO"
