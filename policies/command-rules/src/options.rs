//! How a program reads its arguments, and whether each is one that it may be given.
//!
//! Allowed options are written as:
//!
//! | written | allows |
//! |---|---|
//! | `-abc` | the letters a, b and c, alone or in a group, without a value |
//! | `-n=` | the letter n with a value, attached or as the next argument |
//! | `-n=?` | the letter n, with an attached value or none |
//! | `-n:` | the letter n with a value that is the next argument |
//! | `-NUM` | a number as an option: `-5` |
//! | `--name` | this long option, spelled in full, without a value |
//! | `--name=` | with a value, attached or as the next argument |
//! | `--name=?` | with an attached value or none |
//! | `--name=2` | with two values, the next two arguments |
//!
//! What is not written is refused: unknown options, abbreviations (`--checkpoint-act`), values for options that take
//! none, and next-argument values that look like options. The last is why a wrong entry here cannot hide an option: should the
//! program think otherwise about what takes a value, the argument that it would then read as an option does not look like
//! one. `--` ends the options. Options may stand after operands, as GNU programs read them; for programs that stop at the
//! first operand this is only stricter.

/// Why an argument is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Objection<'a> {
    /// An option that is not allowed.
    Option(&'a str),
    /// A long option that is not spelled in full.
    Abbreviated(&'a str, String),
    /// An option without the value it takes.
    NoValue(&'a str),
    /// A value for an option that takes none.
    Value(&'a str),
    /// The next argument should be a value and looks like an option.
    LikeOption(&'a str, &'a str),
    /// An operand that is not allowed.
    Operand(&'a str),
    /// More operands than are allowed: from here.
    TooMany(&'a str),
    /// A number as an option, with letters behind it.
    Joined(&'a str, String),
    /// For a reason of this program's.
    Because(&'a str, &'static str),
    /// Likewise, with what to do instead.
    Instead(&'a str, &'static str, &'static str),
}

/// Arguments that are allowed, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments<'a> {
    /// Options in the order given: `-n` or `--name`, and the value.
    pub(crate) options: Vec<(String, Option<&'a str>)>,
    /// Everything else.
    pub(crate) operands: Vec<&'a str>,
    /// The first option that stands after an operand.
    pub(crate) late: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    Attached,
    Next,
    Two,
}

impl Arguments<'_> {
    /// Whether one of these options was given.
    pub(crate) fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(name, _)| names.contains(&name.as_str()))
    }
}

/// Takes arguments apart.
///
/// # Errors
/// The first that is not allowed.
pub(crate) fn read<'a, S: AsRef<str>>(
    allowed: &[S],
    arguments: &'a [String],
) -> Result<Arguments<'a>, Objection<'a>> {
    let mut read = Arguments::default();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        if argument == "--" {
            read.operands.extend(rest);
            break;
        }
        let is_option = argument.len() > 1 && argument.starts_with('-');
        if is_option && !read.operands.is_empty() {
            read.late = read.late.or(Some(argument));
        }
        if let Some(long) = argument.strip_prefix("--") {
            let option = self::long(allowed, argument, long, &mut rest)?;
            read.options.push(option);
        } else if is_option {
            short(allowed, argument, &mut rest, &mut read.options)?;
        } else {
            read.operands.push(argument);
        }
    }
    Ok(read)
}

fn long<'a, S: AsRef<str>>(
    allowed: &[S],
    argument: &'a str,
    long: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(String, Option<&'a str>), Objection<'a>> {
    let (name, attached) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    let known = || allowed.iter().filter_map(|spec| spec.as_ref().strip_prefix("--")).map(taken);
    let Some((_, takes)) = known().find(|(known, _)| *known == name) else {
        let full = known().find(|(known, _)| !name.is_empty() && known.starts_with(name));
        return Err(match full {
            Some((full, _)) => Objection::Abbreviated(argument, format!("--{full}")),
            None => Objection::Option(argument),
        });
    };
    let value = match (takes, attached) {
        (Takes::Nothing | Takes::Two, Some(_)) => return Err(Objection::Value(argument)),
        (Takes::Two, None) => {
            let name = next(argument, rest).map_err(apart)?;
            next(argument, rest).map_err(apart)?;
            Some(name)
        }
        (Takes::Nothing | Takes::Attached, value) | (Takes::Value | Takes::Next, value @ Some(_)) => value,
        (Takes::Value | Takes::Next, None) => Some(next(argument, rest)?),
    };
    Ok((format!("--{name}"), value))
}

fn short<'a, S: AsRef<str>>(
    allowed: &[S],
    argument: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
    options: &mut Vec<(String, Option<&'a str>)>,
) -> Result<(), Objection<'a>> {
    let number = argument.bytes().skip(1).all(|b| b.is_ascii_digit());
    if number && allowed.iter().any(|spec| spec.as_ref() == "-NUM") {
        options.push(("-NUM".to_owned(), argument.get(1..)));
        return Ok(());
    }
    for (at, letter) in argument.char_indices().skip(1) {
        let Some(takes) = letter_takes(allowed, letter) else {
            let apart = joined(allowed, argument);
            return Err(apart.map_or(Objection::Option(argument), |apart| Objection::Joined(argument, apart)));
        };
        let attached = argument.get(at + letter.len_utf8()..).filter(|rest| !rest.is_empty());
        let name = format!("-{letter}");
        match (takes, attached) {
            (Takes::Nothing, _) => options.push((name, None)),
            (Takes::Attached, value) | (Takes::Value, value @ Some(_)) => {
                options.push((name, value));
                return Ok(());
            }
            (Takes::Next, Some(_)) => return Err(Objection::Value(argument)),
            (Takes::Value | Takes::Next, None) => {
                options.push((name, Some(next(argument, rest)?)));
                return Ok(());
            }
            (Takes::Two, _) => return Err(Objection::Option(argument)),
        }
    }
    Ok(())
}

/// How `-100f` is written in options of which each is known: `-n 100 -f`.
fn joined<S: AsRef<str>>(allowed: &[S], argument: &str) -> Option<String> {
    let rest = argument.strip_prefix('-')?;
    let letters = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = rest.strip_suffix(letters).filter(|number| !number.is_empty())?;
    let has = |wanted: &str| allowed.iter().any(|spec| spec.as_ref() == wanted);
    let known = !letters.is_empty()
        && letters.chars().all(|letter| letter_takes(allowed, letter) == Some(Takes::Nothing));
    // GNU tail takes `-100` only where nothing else is said.
    let number = if has("-n=") { format!("-n {number}") } else { format!("-{number}") };
    (known && has("-NUM")).then(|| format!("{number} -{letters}"))
}

fn letter_takes<S: AsRef<str>>(allowed: &[S], letter: char) -> Option<Takes> {
    allowed.iter().find_map(|spec| {
        let spec = spec.as_ref();
        let letters = spec.strip_prefix('-').filter(|rest| !rest.starts_with('-') && *rest != "NUM")?;
        let (letters, takes) = taken(letters);
        letters.contains(letter).then_some(takes)
    })
}

/// A name as it is written, and what it takes.
fn taken(written: &str) -> (&str, Takes) {
    if let Some(name) = written.strip_suffix("=?") {
        (name, Takes::Attached)
    } else if let Some(name) = written.strip_suffix("=2") {
        (name, Takes::Two)
    } else if let Some(name) = written.strip_suffix('=') {
        (name, Takes::Value)
    } else if let Some(name) = written.strip_suffix(':') {
        (name, Takes::Next)
    } else {
        (written, Takes::Nothing)
    }
}

/// The next argument as the value of an option: anything that does not look like one. Negative numbers and ranges do not.
fn next<'a>(option: &'a str, rest: &mut impl Iterator<Item = &'a str>) -> Result<&'a str, Objection<'a>> {
    let value = rest.next().ok_or(Objection::NoValue(option))?;
    let like_number = value.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b',' || b == b'.');
    if value.starts_with('-') && !like_number { Err(Objection::LikeOption(option, value)) } else { Ok(value) }
}

/// One of two values cannot be attached.
fn apart(objection: Objection<'_>) -> Objection<'_> {
    match objection {
        Objection::LikeOption(_, value) => Objection::Because(value, "a value must not look like an option"),
        other => other,
    }
}

/// Whether this is a way to write allowed options.
pub(crate) fn is_written_well(spec: &str) -> bool {
    let (name, takes) = taken(spec);
    let letters = |name: &str| {
        let one = takes == Takes::Nothing || name.chars().count() == 1;
        one && !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && !"-=:".contains(c))
    };
    match (name.strip_prefix("--"), name.strip_prefix('-')) {
        (None, Some(_)) if takes == Takes::Two => false,
        (Some(long), _) => {
            takes != Takes::Next
                && !long.is_empty()
                && long.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        }
        (None, Some("NUM")) => takes == Takes::Nothing,
        (None, Some(short)) => letters(short),
        (None, None) => false,
    }
}

impl Objection<'_> {
    /// What is refused and why.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Option(option) => format!("{option:?} is not one of the options that are allowed here"),
            Self::Abbreviated(option, full) => {
                format!("{option:?} is not spelled in full; it may be meant as {full}")
            }
            Self::NoValue(option) => format!("{option:?} is without its value"),
            Self::Value(option) => format!("{option:?} gives a value to an option that takes none this way"),
            Self::LikeOption(option, value) => {
                format!("the value {value:?} of {option:?} looks like an option")
            }
            Self::Operand(operand) => format!("{operand:?} is not allowed here"),
            Self::TooMany(operand) => format!("{operand:?} is one operand too many"),
            Self::Joined(option, _) => format!("{option:?} joins a number and other options"),
            Self::Because(argument, why) | Self::Instead(argument, why, _) => {
                format!("{argument:?} is refused: {why}")
            }
        }
    }

    /// What to do next.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Option(_) | Self::Operand(_) | Self::TooMany(_) | Self::Because(..) => {
                "leave it out, or ask the operator for a rule that allows it".to_owned()
            }
            Self::Abbreviated(_, full) => format!("write {full}"),
            Self::Joined(_, apart) => format!("write {apart}"),
            Self::Instead(_, _, instead) => (*instead).to_owned(),
            Self::NoValue(option) => format!("give {option} a value"),
            Self::Value(_) => "leave the value out, or write it as an argument of its own".to_owned(),
            Self::LikeOption(option, value) if option.starts_with("--") => {
                format!("attach it: {option}={value}")
            }
            Self::LikeOption(option, value) => format!("attach it: {option}{value}"),
        }
    }
}
