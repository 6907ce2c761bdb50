//! The tables, the schema and the settings.

use execgate_policy_sdk::CommandPolicy as _;
use execgate_policy_sdk::harness::{self, Tables};
use execgate_policy_sdk::types::CommandVerdict;

use super::CommandRules;
use super::interpreters::NAMES;

#[test]
fn the_schema_is_the_settings() {
    harness::schema::<CommandRules>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
}

#[test]
fn tables() {
    let cases = Tables::<CommandRules>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).command().run();
    assert!(cases >= 700, "{cases}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_path() {
    let json = r#"{"rules":[
        {"id":"a","effect":"allow","programs":["/bin/ls"],"paths":["ls"],"cwd":["srv"]},
        {"id":"a","effect":"deny","options":["--x:","ab","-n="],"set_env":{"A=B":"c"}},
        {"id":"","effect":"allow","remedy":"x","max_operands":1}]}"#;
    let errors = harness::settings::<CommandRules>(json).unwrap_err();
    let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "rules[0].programs",
            "rules[0].paths",
            "rules[0].cwd",
            "rules[1].id",
            "rules[1].options",
            "rules[1].effect",
            "rules[1].set_env",
            "rules[2].id",
            "rules[2].options",
            "rules[2].remedy",
        ]
    );
    let typo = harness::settings::<CommandRules>(r#"{"rules":[{"id":"a","effect":"alow"}]}"#).unwrap_err();
    assert!(typo[0].path.starts_with("rules[0]") && typo[0].message.contains("alow"), "{typo:?}");
}

#[test]
fn a_denial_says_what_to_do_instead() {
    let denied = |settings: &str, argv: &[&str]| {
        let settings = harness::settings::<CommandRules>(settings).unwrap();
        match CommandRules::review(&settings, &harness::command(argv)) {
            CommandVerdict::Deny(denial) => {
                format!("{} / {}", denial.message, denial.remedy.unwrap_or_default())
            }
            other => panic!("{argv:?}: {other:?}"),
        }
    };
    let preset = r#"{"preset":"read-only"}"#;
    let named = r#"{"preset":"read-only","rules":[{"id":"x","effect":"allow","programs":["journalctl"],"args":[["-x"]]}]}"#;
    for (settings, argv, said) in [
        (preset, &["journalctl"][..], "no rule names \"journalctl\" / "),
        (named, &["journalctl"], "no rule allows \"journalctl\" with these arguments / "),
        (named, &["dpkg"], "no rule names \"dpkg\" / "),
        (preset, &["tail", "-100f", "a"], "joins a number and other options / write -n 100 -f"),
        (preset, &["grep", "-5n", "x"], "/ write -5 -n"),
        (preset, &["tail", "-100k", "a"], "\"-100k\" is not one of the options that are allowed here"),
        (
            preset,
            &["git", "-C", "/srv", "log"],
            "/ start the job there: cwd of job.start, -C of execgate exec",
        ),
        (preset, &["jq", "--arg", "a", "-f", "."], "\"-f\" is refused: a value must not look like an option"),
    ] {
        let answer = denied(settings, argv);
        assert!(answer.contains(said), "{argv:?}: {answer}");
    }
}

#[test]
fn whoever_allows_an_interpreter_is_warned() {
    let warned = |rule: &str| {
        let settings = harness::settings::<CommandRules>(&format!(r#"{{"rules":[{rule}]}}"#)).unwrap();
        settings.warnings()
    };
    for rule in [
        r#"{"id":"x","effect":"allow","programs":["ls","python3.11"]}"#,
        r#"{"id":"x","effect":"allow","paths":["/usr/bin/perl*"]}"#,
        r#"{"id":"x","effect":"allow","groups":["dev"]}"#,
        r#"{"id":"x","effect":"allow","programs":["ls"],"labels":{"safe":["yes"]}}"#,
    ] {
        let warnings = warned(rule);
        assert!(warnings.len() == 1 && warnings[0].contains("\"x\""), "{rule}: {warnings:?}");
    }
    for rule in [
        r#"{"id":"x","effect":"allow","programs":["ls"]}"#,
        r#"{"id":"x","effect":"deny","programs":["python3"]}"#,
        r#"{"id":"x","effect":"allow","programs":["python3"],"args":[["/srv/tool.py"]]}"#,
        r#"{"id":"x","effect":"allow","programs":["sh"],"script_commands":["ls"]}"#,
    ] {
        assert!(warned(rule).is_empty(), "{rule}");
    }
}

#[test]
fn nothing_that_runs_other_programs_is_read_only() {
    let settings = harness::settings::<CommandRules>(r#"{"preset":"read-only"}"#).unwrap();
    // These write or run by an option or operand of their own, which the tables of attacks deny.
    let by_table = ["file", "iconv", "patch", "rg", "shuf", "sort", "ss", "tree", "uniq", "xxd"];
    for name in NAMES.iter().filter(|name| !by_table.contains(name)) {
        for argument in ["--exec=id", "-exec", "-c", "-eid"] {
            let request = harness::command(&[name, argument, "id"]);
            let verdict = CommandRules::review(&settings, &request);
            assert!(matches!(verdict, CommandVerdict::Deny(_)), "{name} {argument}: {verdict:?}");
        }
    }
}
