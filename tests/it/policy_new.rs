//! A policy from nothing: written, built, tested and looked at, as the README has it.

use crate::support::program::{program, succeeds, text};

#[test]
fn a_new_policy_builds_and_passes_its_tests_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (name, hook) in [("demo", "command"), ("doorman", "session"), ("pace", "rate")] {
        succeeds(&directory, root, &["policy", "new", name, "--hook", hook]);
        let folder = root.join(name);
        // One target for all three: only their own few lines are built anew.
        std::os::unix::fs::symlink(root.join("target"), folder.join("target")).unwrap();
        std::fs::create_dir_all(root.join("target")).unwrap();
        let built = succeeds(&directory, &folder, &["policy", "build"]);
        assert!(built.contains("sha256"), "{built}");
        let tested = succeeds(&directory, &folder, &["policy", "test"]);
        assert!(tested.contains("0 failed"), "{tested}");
        let inspected = succeeds(&directory, &folder, &["policy", "inspect", &format!("{name}.wasm")]);
        assert!(inspected.contains(hook) && inspected.contains("snapshot  yes"), "{inspected}");
    }
    let again = program(&directory, root, &["policy", "new", "demo"]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again));
    let strange = program(&directory, root, &["policy", "new", "../demo"]);
    assert_eq!(strange.status.code(), Some(2), "{}", text(&strange));
}
