//! find: tests and printing to standard output; no action that runs, deletes or writes a file (find(1), GNU 4.9 and busybox).

use crate::options::Objection;

/// Without a value.
#[rustfmt::skip]
const ALONE: [&str; 32] = [
    "-print", "-print0", "-ls", "-prune", "-quit", "-depth", "-d", "-mount", "-xdev", "-daystart", "-follow", "-empty",
    "-executable", "-readable", "-writable", "-nouser", "-nogroup", "-true", "-false", "-not", "-a", "-and", "-o", "-or", "-noleaf",
    "-ignore_readdir_race", "-noignore_readdir_race", "-warn", "-nowarn", "-H", "-L", "-P",
];

/// With one value.
#[rustfmt::skip]
const VALUED: [&str; 36] = [
    "-name", "-iname", "-path", "-ipath", "-wholename", "-iwholename", "-regex", "-iregex", "-regextype", "-type", "-xtype",
    "-size", "-user", "-group", "-uid", "-gid", "-perm", "-links", "-inum", "-samefile", "-newer", "-anewer", "-cnewer",
    "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin", "-used", "-maxdepth", "-mindepth", "-fstype", "-lname", "-ilname",
    "-printf",
];

/// The first argument that is not allowed.
pub(super) fn judge(arguments: &[String]) -> Result<(), Objection<'_>> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if !argument.starts_with('-') || ALONE.contains(&argument.as_str()) {
            continue;
        }
        if !VALUED.contains(&argument.as_str()) && !is_newer_than(argument) {
            return Err(refused(argument));
        }
        let value = rest.next().ok_or(Objection::NoValue(argument))?;
        if is_like_a_word(value) {
            return Err(Objection::LikeOption(argument, value));
        }
    }
    Ok(())
}

fn refused(argument: &str) -> Objection<'_> {
    let why = match argument {
        "-exec" | "-execdir" | "-ok" | "-okdir" => "it runs a program",
        "-delete" => "it deletes",
        "-fprint" | "-fprint0" | "-fprintf" | "-fls" => "it writes a file",
        _ => return Objection::Option(argument),
    };
    Objection::Because(argument, why)
}

/// `-newerXY`: times compared, e.g. `-newermt`.
fn is_newer_than(argument: &str) -> bool {
    let Some(which) = argument.strip_prefix("-newer") else { return false };
    which.len() == 2 && which.bytes().all(|b| b"aBcmt".contains(&b))
}

/// `-delete` is; `-7`, `-10k`, `-u+w` and `-g=s` are not.
fn is_like_a_word(value: &str) -> bool {
    let Some(word) = value.strip_prefix('-') else { return false };
    word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(|b| b.is_ascii_alphanumeric())
}
