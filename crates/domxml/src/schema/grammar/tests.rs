//! Small schemas and documents.

use super::*;
use crate::schema::grammar::{datatype::Datatype, regex::Regex};

fn grammar(body: &str) -> Grammar {
    let text = format!("<grammar xmlns='http://relaxng.org/ns/structure/1.0'>{body}</grammar>");
    Grammar::load("a.rng", &mut |name| match name {
        "a.rng" => Ok(text.clone()),
        "b.rng" => Ok(
            "<grammar xmlns='http://relaxng.org/ns/structure/1.0'><define name='b'><notAllowed/></define>\
                       <define name='c'><element name='c'><text/></element></define></grammar>"
                .to_owned(),
        ),
        other => Err(format!("no {other}")),
    })
    .unwrap()
}

fn place(grammar: &Grammar, document: &str) -> Option<String> {
    let document = xmlform::Document::parse(document, &[], xmlform::ParseFlags::NONE).unwrap();
    match grammar.check(document.root()) {
        Ok(()) => None,
        Err(Misfit::At(place)) => Some(place),
        Err(Misfit::Intricate) => panic!("too intricate"),
    }
}

#[test]
fn children_of_an_interleave_come_in_any_order_and_each_once() {
    let g = grammar(
        "<start><element name='d'><interleave><element name='a'><empty/></element><optional><element name='b'>\
         <attribute name='x'><choice><value>1</value><value>2</value></choice></attribute></element></optional>\
         <zeroOrMore><element name='c'><data type='unsignedInt'/></element></zeroOrMore></interleave></element></start>",
    );
    for fits in [
        "<d><a/></d>",
        "<d> <c>1</c><a/> <c> 2 </c> </d>",
        "<d><b x='2'/><c>3</c><a/></d>",
    ] {
        assert_eq!(place(&g, fits), None, "{fits}");
    }
    for (misfit, where_) in [
        ("<d/>", "/d lacks an element"),
        ("<e/>", "/e is not known there"),
        ("<d><a/><a/></d>", "/d/a[2] is not known there"),
        ("<d><a/><b/></d>", "/d/b lacks an attribute"),
        (
            "<d><a>x</a></d>",
            "/d/a/text() is not known there, or is not of this form",
        ),
        (
            "<d><a/><c>-1</c></d>",
            "/d/c/text() is not known there, or is not of this form",
        ),
        (
            "<d><b x='3'/><a/></d>",
            "/d/b/@x is not known there, or not with this value",
        ),
        (
            "<d y='3'><a/></d>",
            "/d/@y is not known there, or not with this value",
        ),
        (
            "<d>t<a/></d>",
            "/d/text() is not known there, or is not of this form",
        ),
    ] {
        assert_eq!(place(&g, misfit).as_deref(), Some(where_), "{misfit}");
    }
}

#[test]
fn definitions_of_other_files_are_added_to_and_replaced() {
    let g = grammar(
        "<include href='b.rng'><define name='c'><element name='other'><empty/></element></define></include>\
         <define name='b' combine='choice'><element name='b'><ref name='c'/></element></define>\
         <start><ref name='b'/></start>",
    );
    assert_eq!(place(&g, "<b><other/></b>"), None);
    assert!(place(&g, "<b><c/></b>").is_some());
}

#[test]
fn an_element_may_be_in_itself_and_of_a_namespace() {
    let g = grammar(
        "<start><element name='d'><ref name='any'/><optional><element name='q' ns='urn:q'><attribute name='v'/>\
         </element></optional></element></start><define name='any'><element><anyName/><zeroOrMore><choice><attribute>\
         <anyName/></attribute><text/><ref name='any'/></choice></zeroOrMore></element></define>",
    );
    for fits in [
        "<d><m a='1'>x<n b='2'><o/></n></m></d>",
        "<d><m/><p:q xmlns:p='urn:q' v='1'/></d>",
        "<d><m/><q xmlns='urn:q' v='1'/></d>",
    ] {
        assert_eq!(place(&g, fits), None, "{fits}");
    }
    for misfit in ["<d><m/><q v='1'/></d>", "<d><m/><p:q xmlns:p='urn:z' v='1'/></d>"] {
        assert!(place(&g, misfit).is_some(), "{misfit}");
    }
}

#[test]
fn names_mean_others_in_a_grammar_inside() {
    let g = grammar(
        "<define name='c'><element name='outer'><ref name='e'/></element></define>\
         <define name='e'><empty/></define>\
         <start><element name='d'><ref name='c'/><optional><grammar><include href='b.rng'/>\
         <start><ref name='c'/></start></grammar></optional><ref name='c'/></element></start>",
    );
    for fits in ["<d><outer/><outer/></d>", "<d><outer/><c>x</c><outer/></d>"] {
        assert_eq!(place(&g, fits), None, "{fits}");
    }
    assert!(place(&g, "<d><c/><outer/></d>").is_some());
    assert!(place(&g, "<d><outer/><outer/><outer/></d>").is_some());
}

#[test]
fn what_is_not_understood_is_told() {
    for (body, words) in [
        (
            "<start><parentRef name='a'/></start>",
            "<parentRef> is not understood",
        ),
        ("<start><ref name='a'/></start>", "'a' is not defined"),
        ("<start><data type='odd'/></start>", "the type 'odd' is not known"),
        ("<include href='c.rng'/>", "no c.rng"),
        (
            "<define name='a'><ref name='a'/></define><start><ref name='a'/></start>",
            "refers to itself",
        ),
    ] {
        let text = format!("<grammar>{body}</grammar>");
        let read = &mut |name: &str| match name {
            "a.rng" => Ok(text.clone()),
            other => Err(format!("no {other}")),
        };
        let error = Grammar::load("a.rng", read).unwrap_err();
        assert!(error.contains(words), "{body}: {error}");
    }
}

#[test]
fn expressions_are_of_whole_texts() {
    for (expression, fits, not) in [
        ("[0-9]+", "015", "0x"),
        ("(0x)?[0-9a-f]{1,4}", "0xbeef", "0xbeef0"),
        ("[a-zA-Z0-9_\\-\\.]+", "a-b_c.d", "a b"),
        ("[^,]{3}", "a b", "a,b"),
        ("(ab|cd)*e?", "abcdabe", "abc"),
        ("\\[[^\\]]+\\] .+", "[pool] a/b", "[] a"),
        ("(/|[a-zA-Z]:\\\\).+", "C:\\x", "x/y"),
        ("[ -~]{0,8}", "a ~", "é"),
        (
            "([0-9]+(-[0-9]+)?|\\^[0-9]+)(,([0-9]+(-[0-9]+)?|\\^[0-9]+))*",
            "0-3,^2",
            "0-3,",
        ),
    ] {
        let regex = Regex::new(expression).unwrap();
        assert!(regex.fits(fits), "{expression}: {fits}");
        assert!(!regex.fits(not), "{expression}: {not}");
    }
    for wrong in ["(", "[a", "a{", "*a", "a)", "a{99999}", "\\p"] {
        assert!(Regex::new(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn types_know_their_values() {
    let bounds = [("minInclusive", "-1"), ("maxInclusive", "9")];
    for (name, params, fits, not) in [
        ("unsignedInt", &[][..], "4294967295", "4294967296"),
        ("short", &[], "-32768", "1.5"),
        ("int", &bounds[..], " -1 ", "10"),
        (
            "positiveInteger",
            &[],
            "99999999999999999999999999999999999999999999",
            "0",
        ),
        ("double", &[], "1.5e3", "x"),
        ("NCName", &[], "_a-1", "1a"),
        ("dateTime", &[], "2026-11-29T23:00:00Z", "2026-11-29"),
        ("string", &[("maxLength", "3")], "abc", "abcd"),
    ] {
        let datatype = Datatype::new(name, params.iter().copied()).unwrap();
        assert!(datatype.fits(fits), "{name}: {fits}");
        assert!(!datatype.fits(not), "{name}: {not}");
    }
}
