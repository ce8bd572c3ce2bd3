//! Conditions on the elements of arrays.

use sqlparser::ast::Expr;

use super::{
    Atom, Compiler, Family, Kind, List, Node, Side, TEXT, Tree, Typed, Value, ValueSet, Why,
    compare::{Part, in_family},
    family_of, types, unnested,
};

impl Compiler<'_> {
    /// `left = any (right)`.
    pub(super) fn any(&mut self, left: &Expr, right: &Expr) -> Result<Node, Why> {
        if let Expr::Subquery(query) = unnested(right) {
            return self.member(left, query);
        }
        let (facts, kind) = self.scanner.look_at(right)?;
        let element = kind.and_then(types::element_of);
        match self.part(left)? {
            Part::Operand(typed) if facts.own.is_empty() => {
                if let Some(found) = self.constants(&typed, right) {
                    let (family, set) = found?;
                    let list = List::Constant(Value::Set(set));
                    return Ok(Tree::Leaf(Atom::AnyOf { operand: typed.operand, family, list }));
                }
                let element = element.ok_or(Why::Type)?;
                let family = family_of(typed.oid, element, typed.is_enum).ok_or(Why::Type)?;
                let term = self.term(right, facts, Kind::Array(family))?;
                Ok(Tree::Leaf(Atom::AnyOf { operand: typed.operand, family, list: List::Term(term) }))
            }
            Part::Operand(_) | Part::Now => Err(Why::not_understood("what it makes of the row")),
            other => self.has(other, left, right),
        }
    }

    /// `value = any (column)`.
    fn has(&mut self, value: Part, text: &Expr, array: &Expr) -> Result<Node, Why> {
        let typed = self.reader.operand(array).ok_or(Why::Type)?;
        let element = types::element_of(typed.oid).ok_or(Why::Type)?;
        let kind = match &value {
            Part::Constant(oid, _) => *oid,
            Part::Free(_, kind) => kind.ok_or(Why::Type)?,
            _ => return Err(Why::Type),
        };
        let family = family_of(element, kind, false).ok_or(Why::Type)?;
        let side = match value {
            Part::Constant(_, value) => Side::Constant(in_family(family, value)?),
            Part::Free(facts, _) => Side::Term(self.term(text, facts, Kind::One(family))?),
            _ => return Err(Why::Type),
        };
        Ok(Tree::Leaf(Atom::Has { operand: typed.operand, family, side }))
    }

    /// The elements of `array[…]` if all are constants.
    fn constants(&self, typed: &Typed, array: &Expr) -> Option<Result<(Family, ValueSet), Why>> {
        let elements = match unnested(array) {
            Expr::Array(array) => &array.elem,
            // `(array[…])::text[]`
            Expr::Cast { expr, data_type, .. } => {
                let Expr::Array(array) = unnested(expr) else { return None };
                if types::element_of(self.reader.target(data_type)?)? != TEXT {
                    return None;
                }
                &array.elem
            }
            _ => return None,
        };
        let (mut found, mut set) = (None, ValueSet::default());
        for element in elements {
            let (oid, value) = self.reader.constant(element)?;
            let Some(family) = family_of(typed.oid, oid, typed.is_enum) else { return Some(Err(Why::Type)) };
            if found.is_some_and(|found| found != family) {
                return None;
            }
            found = Some(family);
            match in_family(family, value).ok()? {
                Value::Null => set.has_null = true,
                Value::One { key, .. } => {
                    set.keys.insert(key);
                }
                _ => return None,
            }
        }
        Some(Ok((found?, set)))
    }
}
