// Snapshots a volume under the ID of the commit that is checked out; help is in snapfsSnapshot.txt.
def call(Map args) {
    if (!args.volume) {
        error 'snapfsSnapshot: name a volume, as in snapfsSnapshot(volume: "digits")'
    }
    withCredentials([string(credentialsId: args.credentials ?: 'snapfs-token', variable: 'SNAPFS_TOKEN')]) {
        withEnv(["VOLUME=${args.volume}", "BRANCH=${args.branch ?: env.BRANCH_NAME ?: ''}"]) {
            return sh(
                label: "snapshot of ${args.volume}",
                script: libraryResource('snapfs/snapshot.sh'),
                returnStdout: true
            ).trim()
        }
    }
}
