//! Programs whose arguments need a look of their own, in a few lines each.

use crate::options::{Arguments, Objection};

/// ps: no option of it, in any of its three styles, does more than choose and format.
pub(super) fn ps(arguments: &[String]) -> Result<(), Objection<'_>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_,=:%+. ".contains(&b);
    match arguments.iter().find(|argument| !argument.bytes().all(plain)) {
        Some(argument) => Err(Objection::Operand(argument)),
        None => Ok(()),
    }
}

/// date: one operand that begins with `+`; any other would set the clock.
pub(super) fn date<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    match read.operands.as_slice() {
        [] => Ok(()),
        [format] if format.starts_with('+') => Ok(()),
        [operand, ..] => Err(Objection::Because(
            operand,
            "only a format that begins with + may be given, all else sets the clock",
        )),
    }
}

/// iconv: character sets by name; one with a slash in it is read as a file of the client's own making.
pub(super) fn iconv<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    const ENDS: [&str; 5] = ["", "TRANSLIT", "IGNORE", "TRANSLIT//IGNORE", "IGNORE//TRANSLIT"];
    let is_name = |value: &str| match value.split_once("//") {
        Some((name, end)) => !name.contains('/') && ENDS.contains(&end),
        None => !value.contains('/'),
    };
    let sets = read.options.iter().filter_map(|(_, value)| *value);
    match sets.into_iter().find(|value| !is_name(value)) {
        Some(value) => Err(Objection::Because(value, "character sets may be given by name, not from a file")),
        None => Ok(()),
    }
}

/// ss: a filter of states and port numbers; a host's name in it would be asked for at a name server.
pub(super) fn ss<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    #[rustfmt::skip]
    const WORDS: [&str; 28] = [
        "state", "exclude", "all", "connected", "synchronized", "bucket", "big", "established", "syn-sent", "syn-recv", "fin-wait-1",
        "fin-wait-2", "time-wait", "closed", "close-wait", "last-ack", "listening", "closing", "sport", "dport", "=", "==", "eq", "and",
        "or", "not", "(", ")",
    ];
    let port = |word: &str| {
        word.strip_prefix(':')
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
    };
    match read.operands.iter().find(|word| !WORDS.contains(word) && !port(word)) {
        Some(word) => Err(Objection::Because(
            word,
            "only states and port numbers, as in sport = :22, may be filtered by",
        )),
        None => Ok(()),
    }
}

/// sed: `-n` and a script that prints lines by number; sed's language writes files and runs programs.
pub(super) fn sed<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    let Some(script) = read.operands.first() else { return Ok(()) };
    let quiet = read.has(&["-n", "--quiet", "--silent"]);
    if quiet && prints_lines(script) {
        Ok(())
    } else {
        Err(Objection::Because(script, "only -n with lines by number may be given, as in sed -n 10,20p"))
    }
}

/// `5p`, `$p`, `10,20p`, `10,+5p`, several with `;` between.
fn prints_lines(script: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let address = |text: &str| text == "$" || number(text.strip_prefix('+').unwrap_or(text));
    script.split(';').all(|part| {
        part.strip_suffix('p').is_some_and(|range| match range.split_once(',') {
            None => address(range),
            Some((from, to)) => address(from) && address(to),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sed_prints_lines_and_does_nothing_else() {
        for script in ["5p", "$p", "10,20p", "10,+5p", "1p;3p"] {
            assert!(prints_lines(script), "{script}");
        }
        for script in
            ["", "p", "1w x", "1e id", "1p;1w x", "1,2", "s/a/b/p", "1p\n1w x", "1p }", "1,2,3p", "e", "r/x"]
        {
            assert!(!prints_lines(script), "{script}");
        }
    }
}
