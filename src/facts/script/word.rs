//! Words: what they are when that is known, and what runs while they are made.

use brush_parser::ast::UnexpandedArithmeticExpr;
use brush_parser::word::{Parameter, ParameterExpr, WordPiece, WordPieceWithSource};

use super::Examiner;
use super::findings::Reason;
use super::parse;
use super::shell::Dialect;

impl Examiner<'_> {
    /// What the word is, if it is always the same; what runs while it is made is noted either way.
    pub(super) fn literal(&mut self, text: &str) -> Option<String> {
        self.value(text, Quoting::None)
    }

    fn value(&mut self, text: &str, quoting: Quoting) -> Option<String> {
        match parse::word(text, self.dialect) {
            Ok(pieces) => self.pieces(&pieces, quoting),
            Err(reason) => {
                self.findings.doubt(reason);
                None
            }
        }
    }

    /// Notes what runs while the word is made, whatever it becomes.
    pub(super) fn scan(&mut self, text: &str) {
        self.literal(text);
    }

    pub(super) fn here_document(&mut self, text: &str) {
        match parse::here_document(text, self.dialect) {
            Ok(pieces) => {
                self.pieces(&pieces, Quoting::Double);
            }
            Err(reason) => self.findings.doubt(reason),
        }
    }

    fn pieces(&mut self, pieces: &[WordPieceWithSource], quoting: Quoting) -> Option<String> {
        if quoting.overlooks(pieces) {
            self.findings.doubt(Reason::Syntax);
        }
        let mut whole = Some(String::new());
        for piece in pieces {
            let part = self.piece(&piece.piece, quoting);
            whole = whole.zip(part).map(|(whole, part)| whole + &part);
        }
        whole
    }

    fn piece(&mut self, piece: &WordPiece, quoting: Quoting) -> Option<String> {
        match piece {
            WordPiece::Text(text) => quoting.keeps(text).then(|| text.clone()),
            // Within double quotes these quote nothing, and what is between them may run.
            WordPiece::SingleQuotedText(_) | WordPiece::AnsiCQuotedText(_) if quoting == Quoting::Double => {
                self.findings.doubt(Reason::Syntax);
                None
            }
            WordPiece::SingleQuotedText(text) => Some(text.clone()),
            WordPiece::AnsiCQuotedText(text) => {
                self.only_bash();
                (!text.contains('\\')).then(|| text.clone())
            }
            WordPiece::DoubleQuotedSequence(pieces) => self.pieces(pieces, Quoting::Double),
            WordPiece::GettextDoubleQuotedSequence(pieces) => {
                self.only_bash();
                self.pieces(pieces, Quoting::Double);
                None
            }
            WordPiece::EscapeSequence(escape) => {
                let escaped = escape.strip_prefix('\\')?;
                Some(if escaped == "\n" { String::new() } else { escaped.to_owned() })
            }
            WordPiece::TildeExpansion(_) => None,
            WordPiece::ParameterExpansion(expression) => {
                self.parameter_expression(expression, quoting);
                None
            }
            WordPiece::CommandSubstitution(text) => {
                if text.starts_with('(') || !parse::is_whole(text, self.dialect) {
                    self.findings.doubt(Reason::Syntax);
                }
                self.text(self.dialect, text);
                None
            }
            WordPiece::BackquotedCommandSubstitution(text) => {
                // Within backquotes a backslash is read twice.
                if text.contains('\\') {
                    self.findings.doubt(Reason::Dynamic);
                }
                self.text(self.dialect, text);
                None
            }
            WordPiece::ArithmeticExpression(expression) => {
                self.arithmetic(expression);
                None
            }
        }
    }

    /// A name in arithmetic is evaluated as an expression of its own, and an index in it may run anything (bash(1), ARITHMETIC
    /// EVALUATION): only numbers are safe.
    pub(super) fn arithmetic(&mut self, expression: &UnexpandedArithmeticExpr) {
        if expression
            .value
            .contains(|c: char| c.is_alphabetic() || matches!(c, '_' | '$' | '`' | '[' | '"' | '\'' | '\\'))
        {
            self.findings.doubt(Reason::Dynamic);
            self.scan(&expression.value);
        }
    }

    fn parameter_expression(&mut self, expression: &ParameterExpr, quoting: Quoting) {
        match expression {
            ParameterExpr::Parameter { parameter, indirect: false } => self.parameter(parameter),
            ParameterExpr::UseDefaultValues { parameter, indirect: false, default_value: text, .. }
            | ParameterExpr::IndicateErrorIfNullOrUnset {
                parameter,
                indirect: false,
                error_message: text,
                ..
            }
            | ParameterExpr::UseAlternativeValue {
                parameter,
                indirect: false,
                alternative_value: text,
                ..
            } => {
                self.parameter(parameter);
                if let Some(text) = text {
                    self.value(text, quoting);
                }
            }
            ParameterExpr::RemoveSmallestSuffixPattern { parameter, indirect: false, pattern: text }
            | ParameterExpr::RemoveLargestSuffixPattern { parameter, indirect: false, pattern: text }
            | ParameterExpr::RemoveSmallestPrefixPattern { parameter, indirect: false, pattern: text }
            | ParameterExpr::RemoveLargestPrefixPattern { parameter, indirect: false, pattern: text } => {
                self.parameter(parameter);
                text.iter().for_each(|text| self.scan(text));
            }
            ParameterExpr::AssignDefaultValues {
                parameter, indirect: false, default_value: text, ..
            } => {
                self.parameter(parameter);
                if let Parameter::Named(name) = parameter {
                    self.assigned(name);
                }
                if let Some(text) = text {
                    self.value(text, quoting);
                }
            }
            ParameterExpr::ParameterLength { parameter, indirect: false } => self.parameter(parameter),
            // The rest is bash's own, and some of it evaluates what the variable holds.
            _ => {
                self.only_bash();
                self.findings.doubt(Reason::Dynamic);
            }
        }
    }

    fn parameter(&mut self, parameter: &Parameter) {
        match parameter {
            Parameter::Positional(_) | Parameter::Special(_) | Parameter::Named(_) => {}
            Parameter::NamedWithAllIndices { .. } => self.only_bash(),
            // An index is arithmetic.
            Parameter::NamedWithIndex { .. } => {
                self.only_bash();
                self.findings.doubt(Reason::Dynamic);
            }
        }
    }

    /// What other shells read differently.
    pub(super) fn only_bash(&mut self) {
        if self.dialect != Dialect::Bash {
            self.findings.doubt(Reason::Dialect);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    None,
    Double,
}

impl Quoting {
    /// Whether text among the pieces would run something: the grammar takes for text what it cannot read.
    fn overlooks(self, pieces: &[WordPieceWithSource]) -> bool {
        let text = |piece: &WordPieceWithSource| match &piece.piece {
            WordPiece::Text(text) => text.clone(),
            _ => " ".to_owned(),
        };
        let text = pieces.iter().map(text).collect::<String>().replace("\\\n", "");
        ["$(", "${", "`", "<(", ">("].iter().any(|sign| text.contains(sign))
            || self == Self::None && text.contains('(')
    }

    /// Whether the text stands for itself: no pattern, no braces, no continued line.
    fn keeps(self, text: &str) -> bool {
        match self {
            Self::None => {
                let braces = text.contains('{') && (text.contains(',') || text.contains(".."));
                !braces && !text.contains(['*', '?', '[', '(', ')', '\\'])
            }
            Self::Double => !text.contains("\\\n"),
        }
    }
}
