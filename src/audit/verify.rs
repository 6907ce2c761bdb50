//! Proving a log: every file of it, oldest first, as one chain.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chain::Head;

/// Most files of one log that are looked for.
const FILES: u32 = 10_000;

/// A log whose chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The number of its first line: 1 unless older files are gone.
    pub first: u64,
    /// The number of its last line.
    pub lines: u64,
    /// The hash of the last: whoever kept it elsewhere can tell that no line was taken away from the end.
    pub head: String,
    /// How many files.
    pub files: usize,
}

/// The first line that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: line {line} {why}", file.display())]
pub struct BadLine {
    /// In which file.
    pub file: PathBuf,
    /// Its place in the file, from 1; 0 when it is about the file.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

/// Reads a log, rotated files included, and proves its chain. With the hash of a line that was noted elsewhere, also that this
/// line is there still: then nothing up to it was changed, added or taken away.
///
/// # Errors
/// The first line that does not fit, or that a file cannot be read.
pub fn verify(path: &Path, noted: Option<&str>) -> Result<Verified, BadLine> {
    let mut seen = noted.is_none();
    let mut first = None;
    let files = files(path);
    let head = follow(&files, |_, head| {
        seen |= noted == Some(head.hash.as_str());
        first.get_or_insert(head.lines);
        true
    })?;
    if !seen {
        let why = "is not the one that was noted, and none before it is: lines were taken away from the end, or the log is another".to_owned();
        return Err(BadLine { file: path.to_owned(), line: head.lines, why });
    }
    Ok(Verified { first: first.unwrap_or(1), lines: head.lines, head: head.hash, files: files.len() })
}

/// The files of a log, oldest first: `FILE.2`, `FILE.1`, `FILE`. A number that is not there hides none behind it: the chain
/// says whether a file is missing.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = (1..FILES).map(|n| rotated(path, n)).filter(|p| p.exists()).collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Goes through the lines of all files, as long as `each` wants more.
pub(super) fn follow(files: &[PathBuf], each: impl FnMut(Value, &Head) -> bool) -> Result<Head, BadLine> {
    follow_to(files, u64::MAX, each)
}

/// The same, but of the last file only so many bytes.
pub(super) fn follow_to(
    files: &[PathBuf],
    bytes: u64,
    mut each: impl FnMut(Value, &Head) -> bool,
) -> Result<Head, BadLine> {
    let mut head = Head::start();
    let mut is_first = true;
    for (at, file) in files.iter().enumerate() {
        let bad = |line, why| BadLine { file: file.clone(), line, why };
        let opened = File::open(file).map_err(|error| bad(0, format!("cannot be read: {error}")))?;
        let bytes = if at + 1 == files.len() { bytes } else { u64::MAX };
        let mut reader = BufReader::new(opened.take(bytes));
        let mut line = 0;
        while let Some((value, next)) = head.next(&mut reader, is_first).map_err(|why| bad(line + 1, why))? {
            line += 1;
            is_first = false;
            head = next;
            if !each(value, &head) {
                return Ok(head);
            }
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(from: &Head, count: u64) -> (Vec<u8>, Head) {
        let mut head = from.clone();
        let mut log = Vec::new();
        for n in 0..count {
            let (line, next) = head.join([json!({"n": n})]);
            log.extend(line.into_bytes());
            head = next;
        }
        (log, head)
    }

    fn written(parts: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in parts {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        let path = directory.path().join("log");
        (directory, path)
    }

    #[test]
    fn a_whole_chain_holds_and_any_flipped_byte_is_found_where_it_is() {
        let (good, _) = lines(&Head::start(), 20);
        let (_directory, path) = written(&[("log", &good)]);
        assert_eq!(verify(&path, None).unwrap().lines, 20);
        for at in 0..good.len() - 200 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let line = good[..at].iter().filter(|b| **b == b'\n').count() as u64 + 1;
            let found = verify(&path, None).expect_err("a flipped byte went unnoticed");
            assert!(found.line == line || found.line == line + 1, "byte {at}: line {line}, found {found}");
        }
    }

    #[test]
    fn a_line_taken_away_is_missed_and_one_at_the_end_by_whoever_noted_the_head() {
        let (good, head) = lines(&Head::start(), 3);
        let parts: Vec<_> = good.split_inclusive(|b| *b == b'\n').collect();
        let (_directory, path) = written(&[("log", &[parts[0], parts[2]].concat())]);
        assert_eq!(verify(&path, None).unwrap_err().line, 2);
        std::fs::write(&path, [parts[0], parts[1]].concat()).unwrap();
        assert_eq!(verify(&path, None).unwrap().lines, 2);
        assert!(verify(&path, Some(&head.hash)).is_err());
        std::fs::write(&path, &good).unwrap();
        assert_eq!(verify(&path, Some(&head.hash)).unwrap().lines, 3);
    }

    #[test]
    fn rotated_files_are_one_chain_and_a_lost_one_is_missed() {
        let (oldest, head) = lines(&Head::start(), 3);
        let (middle, head) = lines(&head, 3);
        let (newest, _) = lines(&head, 3);
        let (_directory, path) = written(&[("log.2", &oldest), ("log.1", &middle), ("log", &newest)]);
        let whole = verify(&path, None).unwrap();
        assert_eq!((whole.first, whole.lines, whole.files), (1, 9, 3));
        std::fs::write(path.with_extension("1"), &oldest).unwrap();
        std::fs::remove_file(path.with_extension("2")).unwrap();
        let bad = verify(&path, None).unwrap_err();
        assert_eq!((bad.file, bad.line), (path.clone(), 1));
        std::fs::remove_file(path.with_extension("1")).unwrap();
        let rest = verify(&path, None).unwrap();
        assert_eq!((rest.first, rest.lines), (7, 9));
    }

    #[test]
    fn no_line_is_longer_than_the_bound() {
        let long = json!({"argv": "x".repeat(20_000)});
        let (line, _) = Head::start().join([long.clone(), json!({"outcome": "deny"})]);
        assert!(line.contains("deny"));
        let (line, _) = Head::start().join([long]);
        assert!(line.len() <= super::super::chain::MAX_LINE);
    }
}
