//! SECURITY.md names a test for each fault it lists; here is that they exist, and those that stand nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{Client, Gateway, run};

fn sources() -> String {
    let mut text = String::new();
    let mut todo: Vec<PathBuf> =
        ["src", "tests"].iter().map(|d| Path::new(env!("CARGO_MANIFEST_DIR")).join(d)).collect();
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => todo.push(path),
                path if path.extension().is_some_and(|e| e == "rs") => {
                    text += &fs::read_to_string(path).unwrap()
                }
                _ => {}
            }
        }
    }
    text
}

#[test]
fn every_test_that_security_md_names_exists() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/SECURITY.md")).unwrap();
    let sources = sources();
    let rows =
        document.lines().filter(|line| line.starts_with("| CVE-") || line.starts_with("| a wrongly typed"));
    // In the prose, a name this long is a test's.
    for name in document.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 4) {
        assert!(sources.contains(&format!("fn {name}(")), "{name} does not exist");
    }
    let mut count = 0;
    for row in rows {
        let name =
            row.trim_end_matches(" |").rsplit('`').nth(1).unwrap_or_else(|| panic!("no test in {row}"));
        assert!(sources.contains(&format!("fn {name}(")), "{name} does not exist: {row}");
        count += 1;
    }
    assert!(count >= 25, "only {count} faults");
}

#[test]
fn arguments_are_plain_bytes_and_there_is_always_a_program() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for argv in
            [json!([]), json!([""]), json!(["\u{0}"]), json!(["echo\u{0}x"]), json!("echo"), json!([null])]
        {
            assert_eq!(client.refused("job.start", json!({"argv": argv})).await, "invalid_params", "{argv}");
        }
        let hostile = [
            "; id", "&& id", "| id", "`id`", "$(id)", "\\", "a\\", "\n", "\r", "\u{a0}", "‘’", "*", "~",
            "${IFS}", "-s\\",
        ];
        let mut argv = vec!["printf", "%s|"];
        argv.extend(hostile);
        let job = client.start(&argv).await;
        let text = String::from_utf8(client.output(&job, "stdout").await).unwrap();
        assert_eq!(text, hostile.map(|argument| format!("{argument}|")).concat());
    });
}

#[test]
fn a_job_inherits_no_descriptor_but_its_three_streams() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["ls", "/proc/self/fd"]).await;
        let text = String::from_utf8(client.output(&job, "stdout").await).unwrap();
        // The fourth is the directory that ls itself reads.
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    });
}
