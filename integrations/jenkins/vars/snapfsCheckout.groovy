// Gives its body a commit's data; help is in snapfsCheckout.txt.
def call(Map args, Closure body) {
    if (!args.volume || !args.lake) {
        error 'snapfsCheckout: name a volume and the lake, as in snapfsCheckout(volume: "digits", lake: "/lake") { ... }'
    }
    def into = args.into ?: ''
    def settings = ["VOLUME=${args.volume}", "LAKE=${args.lake}", "COMMIT=${args.commit ?: ''}", "INTO=${into}"]
    def path = perform(args, settings, 'checkout')
    try {
        withEnv(["SNAPFS_DATA=${path}"]) {
            return body(path)
        }
    } finally {
        if (into) {
            perform(args, settings, 'remove')
        }
    }
}

// What the script writes.  The token is in the environment of our own commands only, not of the body's.
private String perform(Map args, List settings, String name) {
    withCredentials([string(credentialsId: args.credentials ?: 'snapfs-token', variable: 'SNAPFS_TOKEN')]) {
        withEnv(settings) {
            return sh(
                label: "${name} of ${args.volume}",
                script: libraryResource("snapfs/${name}.sh"),
                returnStdout: true
            ).trim()
        }
    }
}
