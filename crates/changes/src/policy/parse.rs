//! From the text of a policy to its syntax tree, within bounds.

use sqlparser::{
    ast::{Expr, Statement},
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::{Token, TokenWithSpan, Tokenizer},
};

use super::Why;

/// Longest text in bytes. Policies of real projects take a few hundred; the longest seen took 9,000.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Most tokens. It bounds the size of the tree, and with it every walk through it.
const MAX_TOKENS: usize = 4_000;

/// Deepest nesting of brackets: the parser and the walks through the tree call themselves.
const MAX_NESTING: usize = 40;

/// Longest chain of operators that stands without brackets between them, as the parser nests them. PostgreSQL prints
/// such chains only of AND and OR.
pub(super) const MAX_DEPTH: usize = 120;

const DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Reads an expression.
pub(super) fn expression(text: &str) -> Result<Expr, Why> {
    let mut parser = parser(text)?;
    let expression = parser.parse_expr().map_err(|_| Why::NotUnderstood("it cannot be parsed".into()))?;
    match parser.peek_token().token {
        Token::EOF => Ok(expression),
        _ => Err(Why::NotUnderstood("it cannot be parsed to its end".into())),
    }
}

/// Reads statements that are separated by semicolons.
pub(super) fn statements(text: &str) -> Option<Vec<Statement>> {
    parser(text).ok()?.parse_statements().ok()
}

fn parser(text: &str) -> Result<Parser<'static>, Why> {
    let tokens = tokens(text)?;
    Ok(Parser::new(&DIALECT).with_tokens_with_locations(tokens))
}

fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, Why> {
    if text.len() > MAX_BYTES {
        return Err(Why::TooLarge);
    }
    let mut tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|_| Why::NotUnderstood("it cannot be read".into()))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    if tokens.len() > MAX_TOKENS {
        return Err(Why::TooLarge);
    }
    let (mut nesting, mut chain) = (0usize, 0usize);
    for token in &tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => nesting += 1,
            Token::RParen | Token::RBracket | Token::RBrace => nesting = nesting.saturating_sub(1),
            _ => {}
        }
        chain = if is_link(&token.token) { chain + 1 } else { 0 };
        if nesting > MAX_NESTING || chain > MAX_NESTING {
            return Err(Why::TooLarge);
        }
    }
    Ok(tokens)
}

/// Whether a token is one that the parser nests for without brackets: prefix operators and CASE.
fn is_link(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && ["not", "case", "when", "select"].iter().any(|link| word.value.eq_ignore_ascii_case(link))
        }
        Token::Plus | Token::Minus | Token::Tilde | Token::ExclamationMark | Token::AtSign => true,
        _ => false,
    }
}

/// The text of a part of the tree, which the parser reads as the same tree again. `None` if it would not.
pub(super) fn text_of(part: &Expr) -> Option<String> {
    let text = part.to_string();
    (expression(&text).ok()? == *part).then_some(text)
}
