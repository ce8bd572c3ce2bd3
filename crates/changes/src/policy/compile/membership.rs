//! Subqueries that are tied to the row by equality: their rows are asked once for a party, and a row is looked up
//! among them.

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Distinct, Expr, GroupByExpr, Query, Select, SelectItem, SetExpr,
};

use super::{
    Atom, Compiler, Kind, Node, Otherwise, Tree, Typed, Why, chain, compare::Part, family_of, parse, unnested,
};
use crate::{
    policy::{operand::Operand, scan},
    value::Family,
};

/// Most columns of the row that tie a subquery to it.
const MAX_TIES: usize = 4;

/// A condition of a subquery that ties it to the row.
struct Tie {
    operand: Operand,
    family: Family,
    /// What the subquery has to be equal.
    other: Expr,
}

impl<'c> Compiler<'c> {
    /// `expression in (query)`.
    pub(super) fn member(&mut self, expression: &Expr, query: &Query) -> Result<Node, Why> {
        let whole = Expr::Subquery(Box::new(query.clone()));
        let (facts, kind) = self.scanner.look_at(&whole)?;
        if !facts.own.is_empty() {
            return self.free_member(expression, query);
        }
        if facts.clock {
            return Err(Why::Clock);
        }
        let Part::Operand(Typed { operand, oid, is_enum, .. }) = self.part(expression)? else {
            return Err(Why::not_understood("what it makes of the row"));
        };
        let family = family_of(oid, kind.ok_or(Why::Type)?, is_enum).ok_or(Why::Type)?;
        let text = parse::text_of(&whole).ok_or_else(|| Why::not_understood("its syntax"))?;
        let sql = format!("select (q.v)::pg_catalog.text from {text} as q(v)");
        let set = self.put_term(sql, facts, Kind::Set(vec![family]))?;
        Ok(Tree::Leaf(Atom::Member { operands: vec![(operand, family)], set, otherwise: Otherwise::In }))
    }

    /// `auth.uid() in (select m.user_id from m where m.room_id = room.id)`: the row is tied inside.
    fn free_member(&mut self, expression: &Expr, query: &Query) -> Result<Node, Why> {
        let (facts, kind) = self.scanner.look_at(expression)?;
        if !facts.own.is_empty() || facts.clock {
            return Err(Why::Correlated);
        }
        let select = plain_select(query).ok_or(Why::Correlated)?;
        let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
            select.projection.as_slice()
        else {
            return Err(Why::Correlated);
        };
        let column_type = self.scanner.look_at_inside(&select.from, column)?.1;
        let family = family_of(kind.ok_or(Why::Type)?, column_type.ok_or(Why::Type)?, false);
        family.ok_or(Why::Type)?;
        let equal = Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(expression.clone()))),
            op: BinaryOperator::Eq,
            right: Box::new(column.clone()),
        };
        self.tied(select, Some(Expr::Nested(Box::new(equal))), Otherwise::NotTrue)
    }

    /// `exists (query)`.
    pub(super) fn exists(&mut self, query: &Query) -> Result<Node, Why> {
        let select = plain_select(query).ok_or(Why::Correlated)?;
        // What is selected does not matter, unless it is a function that returns a set.
        let is_harmless = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } => {
                is_harmless(expression)
            }
            _ => false,
        };
        if !select.projection.iter().all(is_harmless) {
            return Err(Why::Correlated);
        }
        self.tied(select, None, Otherwise::False)
    }

    /// The subquery without the conditions that tie it, as a set of what these compare the row with.
    fn tied(&mut self, select: &Select, more: Option<Expr>, otherwise: Otherwise) -> Result<Node, Why> {
        let condition = select.selection.as_ref().ok_or(Why::Correlated)?;
        let (mut ties, mut rest) = (Vec::new(), Vec::new());
        for part in chain(unnested(condition), &BinaryOperator::And) {
            match self.tie(select, part)? {
                Some(tie) => ties.push(tie),
                None => rest.push(part.clone()),
            }
        }
        if ties.is_empty() || ties.len() > MAX_TIES {
            return Err(Why::Correlated);
        }
        rest.extend(more);
        let query = set_query(select, &ties, rest);
        let whole = Expr::Subquery(Box::new(query));
        let (facts, _) = self.scanner.look_at(&whole)?;
        if !facts.own.is_empty() {
            return Err(Why::Correlated);
        }
        if facts.clock {
            return Err(Why::Clock);
        }
        if facts.loose {
            return Err(Why::Collation);
        }
        let text = parse::text_of(&whole).ok_or_else(|| Why::not_understood("its syntax"))?;
        let sql = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(&text).to_owned();
        let set = self.put_term(sql, facts, Kind::Set(ties.iter().map(|tie| tie.family).collect()))?;
        let operands = ties.into_iter().map(|tie| (tie.operand, tie.family)).collect();
        Ok(Tree::Leaf(Atom::Member { operands, set, otherwise }))
    }

    /// A condition that ties a subquery to the row by equality. `None` if it does not depend on the row.
    fn tie(&mut self, select: &Select, part: &Expr) -> Result<Option<Tie>, Why> {
        let (facts, _) = self.scanner.look_at_inside(&select.from, part)?;
        if facts.own.is_empty() {
            return Ok(None);
        }
        let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = unnested(part) else {
            return Err(Why::Correlated);
        };
        let reader = crate::policy::read::Reader { inside: true, ..self.reader };
        for (mine, other) in [(left, right), (right, left)] {
            let (mine_facts, _) = self.scanner.look_at_inside(&select.from, mine)?;
            let (other_facts, other_type) = self.scanner.look_at_inside(&select.from, other)?;
            if mine_facts.own.is_empty() || !other_facts.own.is_empty() {
                continue;
            }
            let typed = reader.operand(mine).ok_or(Why::Correlated)?;
            let family =
                family_of(typed.oid, other_type.ok_or(Why::Type)?, typed.is_enum).ok_or(Why::Type)?;
            return Ok(Some(Tie { operand: typed.operand, family, other: (**other).clone() }));
        }
        Err(Why::Correlated)
    }
}

/// A query that is one SELECT whose rows are those of its FROM and WHERE.
fn plain_select(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let no_groups = matches!(&select.group_by, GroupByExpr::Expressions(list, modifiers)
        if list.is_empty() && modifiers.is_empty());
    let plain = query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && !matches!(select.distinct, Some(Distinct::On(_)))
        && no_groups
        && select.having.is_none()
        && !select.from.is_empty()
        && scan::has_plain_clauses(select);
    plain.then_some(&**select)
}

fn is_harmless(expression: &Expr) -> bool {
    match expression {
        Expr::Nested(inner) => is_harmless(inner),
        Expr::Cast { expr, .. } => matches!(unnested(expr), Expr::Value(_)),
        Expr::Value(_) | Expr::CompoundIdentifier(_) => true,
        _ => false,
    }
}

/// `select distinct (a)::text, … from … where …`
fn set_query(select: &Select, ties: &[Tie], rest: Vec<Expr>) -> Query {
    let column = |tie: &Tie| {
        SelectItem::UnnamedExpr(Expr::Cast {
            kind: CastKind::DoubleColon,
            expr: Box::new(Expr::Nested(Box::new(tie.other.clone()))),
            data_type: DataType::Text,
            format: None,
        })
    };
    let mut inner = select.clone();
    inner.distinct = Some(Distinct::Distinct);
    inner.projection = ties.iter().map(column).collect();
    inner.selection = rest.into_iter().reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::And,
        right: Box::new(right),
    });
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(inner))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
