//! One field's `#[xml(...)]`: its shape, its name in XML, and what modifies it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::{Error, Expr, Field, LitStr, Result, Type};

/// How a field appears in XML.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Attr,
    Child,
    Children,
    TextChild,
    /// An attribute of a child that has nothing else.
    Via,
    Text,
    Flag,
    Raw,
    Choice,
    Flatten,
    /// What no other field names.
    Rest,
    Skip,
}

/// How often a field's value is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    Required,
    Optional,
    Many,
}

const SHAPES: &[(&str, Shape)] = &[
    ("attr", Shape::Attr),
    ("child", Shape::Child),
    ("children", Shape::Children),
    ("text_child", Shape::TextChild),
    ("text", Shape::Text),
    ("flag", Shape::Flag),
    ("raw", Shape::Raw),
    ("choice", Shape::Choice),
    ("flatten", Shape::Flatten),
    ("rest", Shape::Rest),
    ("skip", Shape::Skip),
];

const WHENS: &[(&str, &str)] = &[
    ("live", "Live"),
    ("inactive", "Inactive"),
    ("secure", "Secure"),
    ("status", "Status"),
    ("actual_net", "ActualNet"),
    ("pci_orig_states", "PciOrigStates"),
    ("clock_adjust", "ClockAdjust"),
    ("migratable", "Migratable"),
    ("not_migratable", "NotMigratable"),
];

/// One field with its attributes.
pub(crate) struct XmlField {
    pub(crate) ident: Ident,
    pub(crate) shape: Shape,
    pub(crate) arity: Arity,
    /// Name in XML.
    pub(crate) name: String,
    /// Absent is the default.
    pub(crate) default: Option<TokenStream>,
    /// The default is written too.
    pub(crate) always: bool,
    pub(crate) keep_empty: bool,
    pub(crate) paired: bool,
    /// Repeated children count as one.
    pub(crate) merge: bool,
    pub(crate) wrap: Option<String>,
    /// What is said of a wrong value.
    pub(crate) error: Option<String>,
    /// What is said of an absent or empty value.
    pub(crate) missing: Option<String>,
    /// An empty value counts as absent.
    pub(crate) blank: bool,
    /// A wrong value counts as absent.
    pub(crate) lax: bool,
    /// The condition, as a path.
    pub(crate) when: Option<TokenStream>,
    /// The codec, as a type.
    pub(crate) codec: TokenStream,
}

impl XmlField {
    pub(crate) fn of(field: &Field) -> Result<Self> {
        let Some(ident) = field.ident.clone() else {
            return Err(Error::new_spanned(field, "named fields only"));
        };
        let plain = ident.to_string();
        let mut this = Self {
            name: plain.trim_start_matches("r#").to_owned(),
            ident,
            shape: Shape::Skip,
            arity: arity(&field.ty),
            default: None,
            always: false,
            keep_empty: false,
            paired: false,
            merge: false,
            wrap: None,
            error: None,
            missing: None,
            blank: false,
            lax: false,
            when: None,
            codec: quote!(::xmlform::codec::Plain),
        };
        let mut attrs = field.attrs.iter();
        let Some(attr) = attrs.find(|a| a.path().is_ident("xml")) else {
            return Err(Error::new_spanned(field, "needs #[xml(...)]"));
        };
        attr.parse_nested_meta(|meta| this.option(&meta))?;
        if this.shape == Shape::Attr && this.wrap.is_some() {
            this.shape = Shape::Via;
        }
        Ok(this)
    }

    fn option(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let Some(key) = meta.path.get_ident() else {
            return Err(meta.error("unknown option"));
        };
        let key = key.to_string();
        if let Some((_, shape)) = SHAPES.iter().find(|(name, _)| *name == key) {
            self.shape = *shape;
            if let Some(name) = value(meta)? {
                self.name = name.value();
            }
            return Ok(());
        }
        match (key.as_str(), value(meta)?) {
            ("default", None) => {
                self.default = Some(quote!(::core::default::Default::default()));
            }
            ("default", Some(expr)) => {
                let expr: Expr = expr.parse()?;
                self.default = Some(quote!(#expr));
            }
            ("always", None) => self.always = true,
            ("missing", Some(words)) => self.missing = Some(words.value()),
            ("blank", None) => self.blank = true,
            ("lax", None) => self.lax = true,
            ("merge", None) => self.merge = true,
            ("keep_empty", None) => self.keep_empty = true,
            ("paired", None) => self.paired = true,
            ("error", Some(words)) => self.error = Some(words.value()),
            ("wrap", Some(name)) => self.wrap = Some(name.value()),
            ("when", Some(name)) => self.when = Some(when(&name)?),
            ("format", Some(name)) => self.codec = codec(&name)?,
            _ => return Err(meta.error("unknown option")),
        }
        Ok(())
    }
}

fn value(meta: &ParseNestedMeta<'_>) -> Result<Option<LitStr>> {
    if meta.input.peek(syn::Token![=]) {
        return meta.value()?.parse().map(Some);
    }
    Ok(None)
}

fn when(name: &LitStr) -> Result<TokenStream> {
    let word = name.value();
    match WHENS.iter().find(|(w, _)| *w == word) {
        Some((_, variant)) => {
            let variant = Ident::new(variant, Span::call_site());
            Ok(quote!(::xmlform::When::#variant))
        }
        None => Err(Error::new_spanned(name, "unknown form")),
    }
}

fn codec(name: &LitStr) -> Result<TokenStream> {
    let word = name.value();
    if let Some(digits) = word.strip_prefix("hex") {
        let digits = match digits {
            "" => Ok(0_usize),
            digits => digits.parse(),
        };
        let digits = digits.map_err(|e| Error::new_spanned(name, e))?;
        return Ok(quote!(::xmlform::codec::Hex::<#digits>));
    }
    let known = match word.as_str() {
        "auto" => "Auto",
        "yesno" => "YesNo",
        "onoff" => "OnOff",
        _ => {
            let path: Type = name.parse()?;
            return Ok(quote!(#path));
        }
    };
    let known = format_ident!("{known}");
    Ok(quote!(::xmlform::codec::#known))
}

fn arity(ty: &Type) -> Arity {
    let Type::Path(path) = ty else {
        return Arity::Required;
    };
    let last = path.path.segments.last();
    match last.map(|s| s.ident.to_string()).as_deref() {
        Some("Option") => Arity::Optional,
        Some("Vec") => Arity::Many,
        _ => Arity::Required,
    }
}
