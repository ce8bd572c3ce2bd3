use proptest::prelude::*;

use super::{
    condition::{MAX_BYTES, MAX_CONDITIONS, MAX_DEPTH},
    *,
};
use crate::{
    path::{JsonPath, Step},
    tree::Tree,
};

fn parsed(text: &str) -> Vec<(String, &'static str, String, bool)> {
    let filters = parse(text).unwrap();
    filters
        .into_iter()
        .map(|tree| match tree {
            Tree::Leaf(f) => (f.column.into(), f.operator.as_str(), f.value.into(), f.negate),
            tree => panic!("{tree:?}"),
        })
        .collect()
}

fn one(text: &str) -> (String, &'static str, String, bool) {
    let mut all = parsed(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn f(column: &str, op: &'static str, value: &str, negate: bool) -> (String, &'static str, String, bool) {
    (column.into(), op, value.into(), negate)
}

/// postgres_changes 31 to 43
#[test]
fn the_grammar() {
    assert_eq!(parsed("id=gt.0,id=lt.100"), [f("id", "gt", "0", false), f("id", "lt", "100", false)]);
    assert_eq!(
        parsed("id=in.(1,2,3),details=eq.active"),
        [f("id", "in", "{1,2,3}", false), f("details", "eq", "active", false)]
    );
    assert_eq!(
        parsed("details=eq.active,id=in.(1,2,3)"),
        [f("details", "eq", "active", false), f("id", "in", "{1,2,3}", false)]
    );
    assert_eq!(parsed("a=in.(1,2),b=in.(3,4)"), [f("a", "in", "{1,2}", false), f("b", "in", "{3,4}", false)]);
    assert_eq!(
        parsed("a=eq.x),b=eq.y),c=eq.z"),
        [f("a", "eq", "x)", false), f("b", "eq", "y)", false), f("c", "eq", "z", false)]
    );
    assert_eq!(one("name=eq.O'Brien \"x\""), f("name", "eq", "O'Brien \"x\"", false));
    assert_eq!(one("name=not.neq.a'b"), f("name", "neq", "a'b", true));
    assert_eq!(parsed("name=eq.\"a,b\",id=gt.0"), [f("name", "eq", "a,b", false), f("id", "gt", "0", false)]);
    assert_eq!(one("name=eq.\"a.b:c(d)\""), f("name", "eq", "a.b:c(d)", false));
    assert_eq!(one(r#"name=eq."she said \"hi\"""#), f("name", "eq", "she said \"hi\"", false));
    assert_eq!(one(r#"path=eq."C:\\tmp""#), f("path", "eq", r"C:\tmp", false));
    assert_eq!(one(r#"path=eq."C:\new""#), f("path", "eq", "C:new", false));
    assert_eq!(one("name=eq.\"\""), f("name", "eq", "", false));
    assert_eq!(one("name=eq.\" a \""), f("name", "eq", " a ", false));
    assert_eq!(one("tags=in.(\"a,b\",c)"), f("tags", "in", "{\"a,b\",c}", false));
    assert_eq!(one("name=eq.\"unterminated"), f("name", "eq", "\"unterminated", false));
    assert_eq!(one("name=eq.\"ab\"cd"), f("name", "eq", "\"ab\"cd", false));
    assert_eq!(
        parsed("desc=eq.5\" tall,id=gt.0"),
        [f("desc", "eq", "5\" tall", false), f("id", "gt", "0", false)]
    );
    assert!(parsed("").is_empty() && parsed("   ").is_empty());
    assert_eq!(one("id=not.eq.5"), f("id", "eq", "5", true));
    assert_eq!(one("details=not.like.hel%"), f("details", "like", "hel%", true));
    assert_eq!(one("note=eq."), f("note", "eq", "", false));
    assert_eq!(one("a=in.()"), f("a", "in", "{}", false));
}

/// postgres_changes 120: what the JavaScript builder writes.
#[test]
fn strings_of_the_official_builder() {
    assert_eq!(
        parsed("amount=gt.100,status=not.in.(draft,archived)"),
        [f("amount", "gt", "100", false), f("status", "in", "{draft,archived}", true)]
    );
    assert_eq!(one(r#"code=match."a{1,2}""#), f("code", "match", "a{1,2}", false));
    assert_eq!(one(r#"tag=in.(a%b,c_d,"e\\f")"#), f("tag", "in", r#"{a%b,c_d,"e\\f"}"#, false));
    assert_eq!(one("deleted=eq.null"), f("deleted", "eq", "null", false));
}

/// postgres_changes 8 to 12
#[test]
fn refusals() {
    let refused = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(refused("wrong"), r#"["wrong"]"#);
    assert_eq!(refused("undefined"), r#"["undefined"]"#);
    assert_eq!(refused("a=eq"), r#"["eq"]"#);
    assert_eq!(refused("subject=foo.hey"), r#"["foo", "hey"]"#);
    assert_eq!(refused("id=EQ.1"), r#"["EQ", "1"]"#);
    assert_eq!(refused("id=not.not.eq.1"), r#"["not", "eq.1"]"#);
    assert_eq!(refused("id = eq.5"), r#"[" eq", "5"]"#);
    assert_eq!(refused("id=in.1,2"), "`in` filter value must be wrapped by parentheses");
    for text in ["id=gt.0,", ",id=gt.0", "a=eq.1,,b=eq.2", ","] {
        assert_eq!(refused(text), "filter must not contain empty segments (check for extra commas)");
    }
}

#[test]
fn length_and_count_are_limited() {
    let conditions = |count: usize| vec!["a=eq.1"; count].join(",");
    assert_eq!(parsed(&conditions(MAX_CONDITIONS)).len(), MAX_CONDITIONS);
    assert_eq!(parse(&conditions(MAX_CONDITIONS + 1)), Err(FilterError::TooMany));
    let of_length = |bytes: usize| format!("a=eq.{}", "x".repeat(bytes - 5));
    assert_eq!(parsed(&of_length(MAX_BYTES)).len(), 1);
    assert_eq!(parse(&of_length(MAX_BYTES + 1)), Err(FilterError::TooLong));
    let text = parse(&conditions(101)).unwrap_err().to_string();
    assert_eq!(text, "filter must not have more than 100 conditions");
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC*|[a-z=.(),\"\\\\ ]{0,40}") {
        let _ = parse(&text);
    }

    /// Any value survives quoting, whatever stands around it.
    #[test]
    fn quoted_values_survive(value in "\\PC*") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let filters = parse(&format!("a=eq.\"{quoted}\",b=gt.1")).unwrap();
        prop_assert_eq!(filters.len(), 2);
        prop_assert_eq!(&*filters[0].leaves()[0].value, value);
    }
}

/// A tree as a filter says it, in one way of several: names and values in quotes.
fn written(trees: &[Tree<Filter>]) -> String {
    let one = |tree: &Tree<Filter>| match tree {
        Tree::Leaf(filter) => match simple(&filter.column) && filter.path.is_none() {
            true => condition(filter, &filter.column, "="),
            false => format!("and=({})", part(tree)),
        },
        tree => part(tree).replacen('(', "=(", 1),
    };
    trees.iter().map(one).collect::<Vec<_>>().join(",")
}

/// A part of a group.
fn part(tree: &Tree<Filter>) -> String {
    let all = |parts: &[Tree<Filter>]| parts.iter().map(part).collect::<Vec<_>>().join(",");
    match tree {
        Tree::Leaf(filter) => {
            let mut column = in_quotes(&filter.column);
            if let Some(path) = &filter.path {
                for (at, step) in path.steps.iter().enumerate() {
                    column.push_str(if path.as_text && at + 1 == path.steps.len() { "->>" } else { "->" });
                    match step {
                        Step::Key(key) => column.push_str(&in_quotes(key)),
                        Step::Index(index) => column.push_str(&index.to_string()),
                    }
                }
            }
            condition(filter, &column, ".")
        }
        Tree::And(parts) => format!("and({})", all(parts)),
        Tree::Or(parts) => format!("or({})", all(parts)),
        Tree::Not(inner) => format!("not.{}", part(inner)),
        tree => panic!("{tree:?}"),
    }
}

fn condition(filter: &Filter, column: &str, mark: &str) -> String {
    let value = match filter.operator {
        Operator::In => format!("({})", &filter.value[1..filter.value.len() - 1]),
        _ => in_quotes(&filter.value),
    };
    format!("{column}{mark}{}{}.{value}", if filter.negate { "not." } else { "" }, filter.operator.as_str())
}

fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn simple(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A list that ends where its quotes and parentheses say.
fn is_well_formed(filter: &Filter) -> bool {
    if filter.operator != Operator::In {
        return true;
    }
    let text = format!("and=(a.in.({}),b.eq.1)", &filter.value[1..filter.value.len() - 1]);
    let value = |trees: Vec<Tree<Filter>>| trees.first().map(|tree| tree.leaves()[0].value.clone());
    parse(&text).is_ok_and(|trees| value(trees).as_ref() == Some(&filter.value))
}

fn show(text: &str) -> String {
    written(&parse(text).unwrap())
}

/// row_security 5
#[test]
fn groups() {
    assert_eq!(
        show("or=(a.eq.1,b.gt.2)"),
        r#"or=(a.eq."1",b.gt."2")"#.replace("a.", "\"a\".").replace("b.", "\"b\".")
    );
    let tree = |text: &str| parse(text).unwrap();
    let leaf = |column: &str, operator, value: &str, negate| {
        Tree::Leaf(Filter { operator, negate, ..Filter::equal(column, value) })
    };
    let (a, b) = (leaf("a", Operator::Eq, "1", false), leaf("b", Operator::Gt, "2", false));
    let or = Tree::Or(vec![a.clone(), b.clone()]);
    assert_eq!(tree("or=(a.eq.1,b.gt.2)"), std::slice::from_ref(&or));
    assert_eq!(
        tree(" or=( a.eq.1 , b.gt.2 ) , c=is.null"),
        [or.clone(), leaf("c", Operator::Is, "null", false)]
    );
    assert_eq!(tree("and=(a.eq.1,b.gt.2)"), tree("a=eq.1,b=gt.2"));
    assert_eq!(tree("not.or=(a.eq.1,b.gt.2)"), [Tree::Not(Box::new(or.clone()))]);
    assert_eq!(tree("not.and=(a.eq.1)"), [leaf("a", Operator::Eq, "1", true)]);
    assert_eq!(
        tree("or=(a.eq.1,and(b.gt.2,c.not.is.null))"),
        [Tree::Or(vec![a.clone(), Tree::And(vec![b.clone(), leaf("c", Operator::Is, "null", true)])])]
    );
    assert_eq!(
        tree("and=(or(a.eq.1,b.gt.2),not.and(a.eq.1,b.gt.2))"),
        [or, Tree::Not(Box::new(Tree::And(vec![a.clone(), b])))]
    );
    assert_eq!(tree("or=(or(a.eq.1,a.eq.1),a.eq.1)"), [Tree::Or(vec![a.clone(), a.clone(), a])]);
    // Columns of these names are columns.
    assert_eq!(one("or=eq.(x)"), f("or", "eq", "(x)", false));
    assert_eq!(one("and=not.in.(1)"), f("and", "in", "{1}", true));
}

#[test]
fn values_in_groups() {
    let value = |text: &str| {
        let text = format!("or=({text},z.is.null),y=is.null");
        let trees = parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let [Tree::Or(parts), Tree::Leaf(_)] = &*trees else { panic!("{trees:?}") };
        let [Tree::Leaf(filter), Tree::Leaf(_)] = &**parts else { panic!("{parts:?}") };
        (filter.column_text(), filter.operator.as_str(), filter.value.to_string())
    };
    let f = |column: &str, operator, value: &str| (column.to_owned(), operator, value.to_owned());
    assert_eq!(value("a.eq.x.y:z"), f("a", "eq", "x.y:z"));
    assert_eq!(value(r#"a.eq."x,)\"y""#), f("a", "eq", "x,)\"y"));
    assert_eq!(value(r#"a.eq."x"y"#), f("a", "eq", "\"x\"y"));
    assert_eq!(value("a.eq."), f("a", "eq", ""));
    assert_eq!(value("a.eq.\"x"), f("a", "eq", "\"x"));
    assert_eq!(value("a.in.(1,\"2)\",3)"), f("a", "in", "{1,\"2)\",3}"));
    assert_eq!(value("tags.cs.{a,\"b}\",c}"), f("tags", "cs", "{a,\"b}\",c}"));
    assert_eq!(value("tags.eq.{a,b}"), f("tags", "eq", "{a,b}"));
    assert_eq!(value("period.ov.[1,5)"), f("period", "ov", "[1,5)"));
    assert_eq!(value("period.sl.(1,5]"), f("period", "sl", "(1,5]"));
    assert_eq!(value("periods.adj.{[1,3),[5,7)}"), f("periods", "adj", "{[1,3),[5,7)}"));
    assert_eq!(value(r#"data.cs.{"a":[1,{"b":2}]}"#), f("data", "cs", r#"{"a":[1,{"b":2}]}"#));
    assert_eq!(value("data.cs.[[1],[2]]"), f("data", "cs", "[[1],[2]]"));
    assert_eq!(value("data->a->0->>kind.eq.x"), f("data->a->0->>kind", "eq", "x"));
    assert_eq!(value(r#""my.col"->>"a.b".eq.x"#), f("my.col->>a.b", "eq", "x"));
    assert_eq!(value(r#""a,b".eq.x"#), f("a,b", "eq", "x"));
    assert_eq!(value("a.like.(x"), f("a", "like", "(x"));
    // Between commas brackets keep their commas only where an array or a range is meant.
    assert_eq!(
        parsed("tags=cs.{a,b},id=not.sl.[1,5),p=ov.(1,5],x=cs.[[1,2],3]"),
        [
            self::f("tags", "cs", "{a,b}", false),
            self::f("id", "sl", "[1,5)", true),
            self::f("p", "ov", "(1,5]", false),
            self::f("x", "cs", "[[1,2],3]", false)
        ]
    );
    assert_eq!(parse("tags=eq.{a,b}").unwrap_err().to_string(), r#"["b}"]"#);
    assert_eq!(parse("tags=cs.{a,b").unwrap_err().to_string(), r#"["b"]"#);
    assert_eq!(parsed("tags=cs.\"{a,b}\"")[0].2, "{a,b}");
}

#[test]
fn refusals_in_groups() {
    let refused = |text: &str| parse(text).unwrap_err().to_string();
    let (empty, unclosed, behind) = (
        FilterError::EmptySegment.to_string(),
        FilterError::Unclosed.to_string(),
        FilterError::BehindGroup.to_string(),
    );
    assert_eq!(unclosed, "filter has a group without closing parenthesis");
    assert_eq!(
        behind,
        "filter has text behind the closing parenthesis of a group (check for missing commas)"
    );
    for text in ["or=()", "or=(a.eq.1,)", "or=(,a.eq.1)", "or=(and())", "or=(a.eq.1),", ",or=(a.eq.1)"] {
        assert_eq!(refused(text), empty, "{text}");
    }
    for text in ["or=(", "or=(a.eq.1", "or=(a.in.(1,2)", "or=(a.eq.1,and(b.eq.2)", "or=(a.eq.1,"] {
        assert_eq!(refused(text), unclosed, "{text}");
    }
    for text in ["or=(a.eq.1)x", "or=(a.eq.1))", "or=(and(a.eq.1)b.eq.2)", "or=(a.eq.1) b=eq.1"] {
        assert_eq!(refused(text), behind, "{text}");
    }
    assert_eq!(refused("or=(a)"), r#"["a"]"#);
    assert_eq!(refused("or=(a.eq)"), r#"["eq"]"#);
    assert_eq!(refused("or=(a.foo.hey)"), r#"["foo", "hey"]"#);
    assert_eq!(refused("or=(a=eq.1)"), r#"["1"]"#);
    assert_eq!(refused("or=(a.not.not.eq.1)"), r#"["not", "eq.1"]"#);
    assert_eq!(refused("or=(a.in.1)"), "`in` filter value must be wrapped by parentheses");
    assert_eq!(refused("or=(a.in.(1)2)"), "`in` filter value must be wrapped by parentheses");
    // The first mistake counts.
    assert_eq!(refused("a=foo.1,or=("), r#"["foo", "1"]"#);
    assert_eq!(refused("or=(,b=foo.1"), empty);
}

#[test]
fn groups_are_limited_as_conditions_are() {
    let nested =
        |depth: usize| format!("or=({}a.eq.1{}", "and(a.eq.1,or(".repeat(depth), ")".repeat(2 * depth + 1));
    assert!(parse(&nested(3)).is_ok());
    assert_eq!(parse(&nested(4)), Err(FilterError::TooDeep));
    let deepest = format!("or=({}a.eq.1{}", "and(".repeat(MAX_DEPTH - 1), ")".repeat(MAX_DEPTH));
    assert!(parse(&deepest).is_ok());
    let deeper = format!("or=({}a.eq.1{}", "and(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH + 1));
    assert_eq!(parse(&deeper).unwrap_err().to_string(), "filter must not be nested deeper than 8 groups");
    assert_eq!(parse(&format!("or=({}", "or(".repeat(20_000))), Err(FilterError::TooDeep));
    let many = |count: usize| format!("or=({})", vec!["a.eq.1"; count].join(","));
    assert!(parse(&many(MAX_CONDITIONS)).is_ok());
    assert_eq!(parse(&many(MAX_CONDITIONS + 1)), Err(FilterError::TooMany));
    assert_eq!(parse(&format!("{},{}", many(60), many(41))), Err(FilterError::TooMany));
    assert!(parse(&format!("{},{}", many(60), many(40))).is_ok());
    let path = |steps: usize| format!("d{}=is.null", "->a".repeat(steps));
    assert!(parse(&path(16)).is_ok());
    assert_eq!(
        parse(&path(17)).unwrap_err().to_string(),
        "filter must not have a JSON path of more than 16 steps"
    );
}

fn filter() -> impl Strategy<Value = Filter> {
    let step =
        prop_oneof![".{1,4}".prop_map(|key| Step::Key(key.into())), any::<i32>().prop_map(Step::Index)];
    let path = (prop::collection::vec(step, 1..4), any::<bool>());
    let path = prop::option::weighted(
        0.3,
        path.prop_map(|(steps, as_text)| JsonPath { steps: steps.into(), as_text }),
    );
    let operators: Vec<Operator> = Operator::ALL.iter().map(|(_, operator)| *operator).collect();
    let operator = prop::sample::select(operators);
    let column = prop_oneof!["[a-z]{1,3}", "\\PC{1,5}"];
    (column, path, operator, "\\PC{0,8}|[a-z.,(){}\\[\\]\"\\\\]{0,8}", any::<bool>()).prop_map(
        |(column, path, operator, value, negate)| {
            let value = match operator {
                Operator::In => format!("{{{}}}", in_quotes(&value)),
                _ => value,
            };
            Filter { column: column.into(), path, operator, value: value.into(), negate }
        },
    )
}

/// Trees in the normal form.
fn tree() -> impl Strategy<Value = Tree<Filter>> {
    filter().prop_map(Tree::Leaf).prop_recursive(3, 16, 3, |inner| {
        let parts = prop::collection::vec(inner, 2..4);
        (parts, any::<bool>(), any::<bool>()).prop_map(|(parts, or, not)| {
            let tree = if or { Tree::or(parts) } else { Tree::and(parts) };
            if not { tree.not() } else { tree }
        })
    })
}

proptest! {
    /// What a tree says is read as the same tree, whatever names and values it has.
    #[test]
    fn trees_survive(trees in prop::collection::vec(tree(), 1..4)) {
        let trees = match Tree::and(trees) {
            Tree::And(parts) => parts,
            tree => vec![tree],
        };
        let text = written(&trees);
        prop_assert_eq!(parse(&text), Ok(trees), "{}", text);
    }

    /// Whatever is read can be said, and what is said is read as the same and said in the same way.
    #[test]
    fn what_is_read_can_be_said(
        text in "(not\\.)?(or|and)=\\(([a-c\"]{1,2}(->>?[a-c0-1\"]{1,2}){0,2}\\.(not\\.)?(eq|in|cs|sl|is)\\.[a-c\"{}(\\[\\])\\\\]{0,5},?|or\\(|and\\(|\\),?|,){0,12}\\)*(,[a-c]=(cs|eq|in)\\.[a-c,\"{}()\\[\\]]{0,9}){0,2}",
    ) {
        if let Ok(trees) = parse(&text) {
            prop_assume!(trees.iter().flat_map(Tree::leaves).all(is_well_formed));
            let said = written(&trees);
            prop_assert_eq!(parse(&said), Ok(trees), "{} -> {}", text, said);
        }
    }

    /// Groups of noise are read or refused, in a time that nothing bends.
    #[test]
    fn groups_never_panic(text in "((not\\.)?(or|and)=?\\(|[a-z]{0,2}[=.](eq|in|cs|ov)\\.|[,(){}\\[\\]\"\\\\.> -]|->>?){0,60}") {
        let _ = parse(&text);
    }
}
