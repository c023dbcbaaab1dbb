//! Every shape of field, there and back.

#![allow(missing_docs, clippy::unwrap_used, reason = "test types and helpers")]

use xmlform::{AnyXml, Document, Error, FormatFlags, ParseFlags, RawXml, Writer, Xml, XmlChoice, XmlEnum};

#[derive(XmlEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Color {
    #[xml("red")]
    Red,
    #[xml("deep blue")]
    DeepBlue,
}

#[derive(Xml, Clone, Debug, Default, PartialEq)]
struct Leaf {
    #[xml(attr, format = "hex4")]
    at: Option<u32>,
    #[xml(text)]
    value: Option<String>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq)]
struct Common {
    #[xml(attr)]
    shared: Option<bool>,
    #[xml(text_child)]
    note: Option<String>,
}

#[derive(XmlChoice, Clone, Debug, PartialEq)]
enum Item {
    #[xml("leaf")]
    Leaf(Leaf),
    #[xml("gap")]
    Gap,
}

#[derive(Xml, Clone, Debug, Default, PartialEq)]
struct Items {
    #[xml(choice)]
    all: Vec<Item>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq)]
struct Tree {
    #[xml(attr = "type")]
    kind: Option<Color>,
    #[xml(attr, format = "onoff")]
    lit: Option<bool>,
    #[xml(attr, default)]
    count: u8,
    #[xml(attr, default, always)]
    size: i64,
    #[xml(flatten)]
    common: Common,
    #[xml(child)]
    leaf: Option<Leaf>,
    #[xml(child, keep_empty)]
    bare: Option<Leaf>,
    #[xml(children = "branch", wrap = "branches")]
    branches: Vec<Leaf>,
    #[xml(text_child = "name")]
    names: Vec<String>,
    #[xml(attr = "bus", wrap = "target")]
    bus: Option<u16>,
    #[xml(flag)]
    readonly: bool,
    #[xml(child)]
    items: Items,
    #[xml(raw)]
    metadata: Option<RawXml>,
    #[xml(text_child, when = "secure")]
    secret: Option<String>,
    #[xml(text_child, when = "live", error = "internal error: no such pid: {}")]
    pid: Option<u32>,
}

fn read(text: &str, flags: ParseFlags) -> Result<Tree, Error> {
    Tree::read(Document::parse(text, &[], flags)?.root())
}

fn write(tree: &Tree, flags: FormatFlags) -> String {
    let mut w = Writer::new(flags);
    w.element("tree", tree);
    w.finish()
}

/// What is read is written the same, or as the second text.
fn check(text: &str, expected: &str) {
    let tree = read(text, ParseFlags::NONE).unwrap();
    assert_eq!(write(&tree, FormatFlags::SECURE), expected);
    let again = read(expected, ParseFlags::NONE).unwrap();
    assert_eq!(write(&again, FormatFlags::SECURE), expected);
}

fn check_error(text: &str, message: &str) {
    assert_eq!(read(text, ParseFlags::NONE).unwrap_err().message, message);
}

const FULL: &str = "\
<tree type='deep blue' lit='on' count='3' size='-4' shared='yes'>
  <note>a &lt; b &amp; &apos;c&apos; &gt; &quot;d&quot;</note>
  <leaf at='0x001f'>text</leaf>
  <bare/>
  <branches>
    <branch at='0x0001'/>
    <branch>two</branch>
  </branches>
  <name>x</name>
  <name>y</name>
  <target bus='7'/>
  <readonly/>
  <items>
    <gap/>
    <leaf at='0x0002'/>
    <gap/>
  </items>
  <metadata>
    <a:b xmlns:a=\"u\" k=\"v&quot;\">t<c/></a:b>
    <d>
      <!-- e -->
      <f><![CDATA[<&]]></f>
    </d>
  </metadata>
  <secret>s</secret>
  <pid>12</pid>
</tree>
";

#[test]
fn a_document_in_our_form_is_unchanged() {
    check(FULL, FULL);
}

#[test]
fn order_and_space_do_not_matter() {
    check(
        "<?xml version='1.0'?><!DOCTYPE tree>\n<tree  lit = \"on\"\ntype='red'><x/><name>1</name>\
         <leaf at='31'><!-- c --></leaf><readonly></readonly><name>2</name><leaf at='7'/></tree>",
        "<tree type='red' lit='on' size='0'>\n  <leaf at='0x001f'/>\n  <name>1</name>\n  \
         <name>2</name>\n  <readonly/>\n</tree>\n",
    );
}

#[test]
fn empty_things_are_left_out() {
    check(
        "<tree count='0'><leaf/><branches/><items/><target/><note/><pid></pid></tree>",
        "<tree size='0'/>\n",
    );
}

#[test]
fn references_and_cdata_are_resolved() {
    check(
        "<tree><note>&#65;&lt;<![CDATA[&]]>\r\n</note><name>&#x42;</name></tree>",
        "<tree size='0'>\n  <note>A&lt;&amp;\n</note>\n  <name>B</name>\n</tree>\n",
    );
}

#[test]
fn a_byte_order_mark_is_no_text() {
    check(
        "\u{feff}<?xml version='1.0' encoding='utf-8'?><tree lit='on'/>",
        "<tree lit='on' size='0'/>\n",
    );
}

#[test]
fn what_no_struct_describes_keeps_its_parts() {
    let text = "<x a='1' b='&lt;'>\n  <y>t</y>\n  <z>\n    <w/>\n  </z>\n</x>\n";
    let any = AnyXml::read(Document::parse(text, &[], ParseFlags::NONE).unwrap().root()).unwrap();
    let mut w = Writer::new(FormatFlags::NONE);
    w.element("x", &any);
    assert_eq!(w.finish(), text);
    assert_eq!(any.child("y").map(|y| y.text.as_str()), Some("t"));
}

#[test]
fn kept_xml_declares_the_prefixes_of_outer_elements() {
    check(
        "<tree xmlns:p='urn:p'><metadata><p:x/></metadata></tree>",
        "<tree size='0'>\n  <metadata xmlns:p=\"urn:p\">\n    <p:x/>\n  </metadata>\n</tree>\n",
    );
}

#[test]
fn forms_leave_fields_out() {
    let tree = read(FULL, ParseFlags::INACTIVE).unwrap();
    assert_eq!((tree.pid, tree.secret.as_deref()), (None, Some("s")));
    let tree = read(FULL, ParseFlags::NONE).unwrap();
    let text = write(&tree, FormatFlags::INACTIVE);
    assert!(!text.contains("secret") && !text.contains("pid"));
}

#[test]
fn wrong_values_are_named() {
    for (text, message) in [
        (
            "<tree type='green'/>",
            "Invalid value for attribute 'type' in element 'tree': 'green'.",
        ),
        (
            "<tree count='256'/>",
            "Invalid value for attribute 'count' in element 'tree': '256'. \
             Expected non-negative integer value",
        ),
        (
            "<tree size='1x'/>",
            "Invalid value for attribute 'size' in element 'tree': '1x'. Expected integer value",
        ),
        ("<tree><pid>me</pid></tree>", "no such pid: me"),
    ] {
        check_error(text, message);
    }
}

#[test]
fn what_is_not_xml_is_told_with_its_place() {
    for (text, message) in [
        ("", "at line 1: Document is empty\n(null)\n^"),
        (
            "<a>\n</b>",
            "at line 2: Opening and ending tag mismatch: a line 1 and b\n</b>\n----^",
        ),
        (
            "<a/><b/>",
            "at line 1: Extra content at the end of the document\n<a/><b/>\n----^",
        ),
        (
            "<a x='1' x='2'/>",
            "at line 1: Attribute x redefined\n<a x='1' x='2'/>\n--------------^",
        ),
        (
            "<a>&b;</a>",
            "at line 1: Entity 'b' not defined\n<a>&b;</a>\n---^",
        ),
    ] {
        check_error(text, message);
    }
}

#[test]
fn depth_and_characters_are_bounded() {
    let deep = |n: usize| "<a>".repeat(n) + &"</a>".repeat(n);
    assert!(read(&deep(256), ParseFlags::NONE).is_ok());
    assert!(read(&deep(257), ParseFlags::NONE).is_err());
    assert!(read("<a>\u{1}</a>", ParseFlags::NONE).is_err());
    assert!(read("<a>&#1;</a>", ParseFlags::NONE).is_err());
    let many = |n: usize| (0..n).map(|i| format!(" a{i}=''")).collect::<String>();
    assert!(read(&format!("<a{}/>", many(256)), ParseFlags::NONE).is_ok());
    assert!(read(&format!("<a{}/>", many(257)), ParseFlags::NONE).is_err());
}

#[test]
fn elements_are_bounded() {
    let wide = |n: usize| format!("<tree>{}</tree>", "<a/>".repeat(n));
    assert!(read(&wide(100_000), ParseFlags::NONE).is_ok());
    assert!(read(&wide(140_000), ParseFlags::NONE).is_err());
}
