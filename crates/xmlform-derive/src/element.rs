//! `#[derive(Xml)]`: a struct's fields as reads, attribute writes and content writes.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Result};

use crate::field::{Arity, Shape, XmlField};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "Xml is for structs"));
    };
    let fields: Vec<XmlField> = match &data.fields {
        Fields::Named(named) => named.named.iter().map(XmlField::of).collect::<Result<_>>()?,
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => return Err(Error::new_spanned(&input.ident, "named fields only")),
    };
    let name = &input.ident;
    let known = Known::of(&fields)?;
    let reads = fields.iter().map(|field| read(field, &known));
    let attrs = fields.iter().map(write_attr);
    let content = fields.iter().map(write_content);
    Ok(quote! {
        #[automatically_derived]
        impl ::xmlform::Xml for #name {
            #[allow(unused_variables, reason = "a struct may have no field")]
            fn read(
                node: ::xmlform::Node<'_>,
            ) -> ::core::result::Result<Self, ::xmlform::Error> {
                ::core::result::Result::Ok(Self { #(#reads,)* })
            }
            #[allow(unused_variables, reason = "a struct may have no attribute")]
            fn write_attrs(&self, w: &mut ::xmlform::Writer) {
                #(#attrs)*
            }
            #[allow(unused_variables, reason = "a struct may have no child")]
            fn write_content(&self, w: &mut ::xmlform::Writer) {
                #(#content)*
            }
        }
    })
}

/// The names that the fields of a struct stand for.
struct Known {
    attrs: Vec<String>,
    children: Vec<String>,
}

impl Known {
    /// A struct with a field for the rest must tell all its names.
    fn of(fields: &[XmlField]) -> Result<Self> {
        let mut known = Self {
            attrs: Vec::new(),
            children: Vec::new(),
        };
        let has_rest = fields.iter().any(|field| field.shape == Shape::Rest);
        for field in fields {
            match (&field.wrap, field.shape) {
                (Some(wrap), _) => known.children.push(wrap.clone()),
                (None, Shape::Attr) => known.attrs.push(field.name.clone()),
                (None, Shape::Choice | Shape::Flatten) if has_rest => {
                    return Err(Error::new_spanned(&field.ident, "its names are not known here"));
                }
                (None, Shape::Choice | Shape::Flatten | Shape::Text | Shape::Rest | Shape::Skip) => {}
                (None, _) => known.children.push(field.name.clone()),
            }
        }
        Ok(known)
    }
}

fn read(field: &XmlField, known: &Known) -> TokenStream {
    let ident = &field.ident;
    let value = match field.shape {
        Shape::Rest => {
            let Known { attrs, children } = known;
            quote!(::xmlform::Rest::read(node, &[#(#attrs),*], &[#(#children),*])?)
        }
        _ => read_value(field),
    };
    let value = match &field.wrap {
        Some(wrap) if field.shape != Shape::Via => quote!(match node.child(#wrap) {
            ::core::option::Option::Some(node) => #value,
            ::core::option::Option::None => ::core::default::Default::default(),
        }),
        _ => value,
    };
    match &field.when {
        Some(when) => quote! {
            #ident: if node.reads(#when) { #value } else { ::core::default::Default::default() }
        },
        None => quote!(#ident: #value),
    }
}

fn read_value(field: &XmlField) -> TokenStream {
    let f = quote!(::xmlform::field);
    let result = read_result(field);
    let name = &field.name;
    let result = match (&field.error, field.shape) {
        (Some(words), Shape::Via) => {
            let via = &field.wrap;
            quote!(#f::via_worded(#result, node, #via, #name, #words))
        }
        (Some(words), Shape::Attr) => quote!(#f::attr_worded(#result, node, #name, #words)),
        (Some(words), Shape::TextChild) => {
            quote!(#f::text_child_worded(#result, node, #name, #words))
        }
        (Some(words), Shape::Text) => quote!(#f::text_worded(#result, node, #name, #words)),
        _ => result,
    };
    let result = lenient(field, result);
    match (field.shape, field.arity) {
        (Shape::Flag, _) => quote!(node.child(#name).is_some()),
        (Shape::Skip, _) => quote!(::core::default::Default::default()),
        (Shape::Flatten, Arity::Optional) => quote!(::core::option::Option::Some(#result?)),
        (Shape::Child, Arity::Required) => quote!(#result?.unwrap_or_default()),
        _ => match &field.default {
            Some(default) => quote!(#result?.unwrap_or_else(|| #default)),
            None => quote!(#result?),
        },
    }
}

/// What counts as absent, and what is said of it.
fn lenient(field: &XmlField, result: TokenStream) -> TokenStream {
    let name = &field.name;
    let f = quote!(::xmlform::field);
    let node = match &field.wrap {
        Some(via) if field.shape == Shape::Via && field.merge => quote!(node.child_merged(#via)),
        Some(via) if field.shape == Shape::Via => quote!(node.child(#via)),
        _ => quote!(::core::option::Option::Some(node)),
    };
    let result = match field.lax {
        true => quote!(#f::lax(node, #result)),
        false => result,
    };
    let blank = match field.shape {
        Shape::Child => quote!(#f::child_blank(#node, #name)),
        _ => quote!(#f::attr_blank(#node, #name)),
    };
    match (&field.missing, field.blank) {
        (Some(words), _) => quote! {
            (if #blank { ::core::result::Result::Err(::xmlform::Error::worded(#words, "")) }
            else { #result })
        },
        (None, true) => quote! {
            (if #blank { ::core::result::Result::Ok(::core::option::Option::None) }
            else { #result })
        },
        (None, false) => result,
    }
}

fn read_result(field: &XmlField) -> TokenStream {
    let (name, codec) = (&field.name, &field.codec);
    let f = quote!(::xmlform::field);
    let required = field.arity == Arity::Required && field.default.is_none();
    match (field.shape, field.arity) {
        (Shape::Attr, _) if required => quote!(#f::attr_required::<#codec, _>(node, #name)),
        (Shape::Attr, _) => quote!(#f::attr_opt::<#codec, _>(node, #name)),
        (Shape::Via, _) => {
            let via = &field.wrap;
            let required = match (required, field.merge) {
                (true, _) => quote!(via_required),
                (false, true) => quote!(via_merged),
                (false, false) => quote!(via_opt),
            };
            quote!(#f::#required::<#codec, _>(node, #via, #name))
        }
        (Shape::Child, _) if field.merge => quote!(#f::child_merged(node, #name)),
        (Shape::Child, _) => quote!(#f::child_opt(node, #name)),
        (Shape::Children, _) => quote!(#f::children(node, #name)),
        (Shape::TextChild, Arity::Many) => quote!(#f::text_children::<#codec, _>(node, #name)),
        (Shape::TextChild, _) if required => {
            quote!(#f::text_child_required::<#codec, _>(node, #name))
        }
        (Shape::TextChild, _) => quote!(#f::text_child_opt::<#codec, _>(node, #name)),
        (Shape::Text, _) if required => quote!(#f::text_required::<#codec, _>(node)),
        (Shape::Text, _) => quote!(#f::text_opt::<#codec, _>(node)),
        (Shape::Raw, _) => quote!(#f::raw(node, #name)),
        (Shape::Choice, Arity::Many) => quote!(#f::choices(node)),
        (Shape::Choice, _) => quote!(#f::choice_opt(node)),
        (Shape::Flatten, _) => quote!(::xmlform::Xml::read(node)),
        (Shape::Flag | Shape::Rest | Shape::Skip, _) => quote!(),
    }
}

fn write_attr(field: &XmlField) -> TokenStream {
    let (ident, name, codec) = (&field.ident, &field.name, &field.codec);
    let f = quote!(::xmlform::field);
    let write = match (field.shape, field.arity) {
        (Shape::Attr, Arity::Optional) => {
            quote!(#f::write_attr_opt::<#codec, _>(w, #name, self.#ident.as_ref());)
        }
        (Shape::Attr, _) => match &field.default {
            Some(default) if !field.always => quote! {
                #f::write_attr_unless::<#codec, _>(w, #name, &self.#ident, &#default);
            },
            _ => quote!(w.attr::<#codec, _>(#name, &self.#ident);),
        },
        (Shape::Flatten, Arity::Optional) => {
            quote!(if let Some(value) = &self.#ident { ::xmlform::Xml::write_attrs(value, w); })
        }
        (Shape::Flatten, _) => quote!(::xmlform::Xml::write_attrs(&self.#ident, w);),
        (Shape::Rest, _) => quote!(self.#ident.write_attrs(w);),
        _ => return quote!(),
    };
    guarded(field, write)
}

fn write_content(field: &XmlField) -> TokenStream {
    let ident = &field.ident;
    if matches!(field.shape, Shape::Attr | Shape::Skip) {
        return quote!();
    }
    let value = quote!(value);
    let one = write_one(field, &value);
    let each = match (field.shape, field.arity) {
        (Shape::Flag, _) => {
            let name = &field.name;
            quote!(if self.#ident { w.flag(#name); })
        }
        (_, Arity::Required) => match &field.default {
            Some(default) if !field.always => quote! {
                let value = &self.#ident;
                if ::xmlform::field::differ(value, &#default) { #one }
            },
            _ => quote!(let value = &self.#ident; #one),
        },
        (_, Arity::Optional) => quote! {
            if let ::core::option::Option::Some(value) = &self.#ident { #one }
        },
        (_, Arity::Many) => quote!(for value in &self.#ident { #one }),
    };
    let wrapped = match &field.wrap {
        Some(wrap) if field.shape != Shape::Via => quote! {
            w.element_with(#wrap, ::xmlform::Empty::Drop, |w| { #each });
        },
        _ => each,
    };
    guarded(field, quote!({ #wrapped }))
}

fn write_one(field: &XmlField, value: &TokenStream) -> TokenStream {
    let (name, codec) = (&field.name, &field.codec);
    match field.shape {
        Shape::Child if field.paired => quote!(w.element_paired(#name, #value);),
        Shape::Child if !field.keep_empty => quote!(w.element_unless_empty(#name, #value);),
        Shape::Child | Shape::Children => quote!(w.element(#name, #value);),
        Shape::TextChild => quote!(w.text_child::<#codec, _>(#name, #value);),
        Shape::Via => {
            let via = &field.wrap;
            quote!(::xmlform::field::write_via::<#codec, _>(w, #via, #name, #value);)
        }
        Shape::Text => quote!(w.text::<#codec, _>(#value);),
        Shape::Raw => quote!(#value.write(w);),
        Shape::Choice => quote!(::xmlform::XmlChoice::write_choice(#value, w);),
        Shape::Flatten => quote!(::xmlform::Xml::write_content(#value, w);),
        Shape::Rest => quote!(#value.write_content(w);),
        Shape::Attr | Shape::Flag | Shape::Skip => quote!(),
    }
}

fn guarded(field: &XmlField, write: TokenStream) -> TokenStream {
    match &field.when {
        Some(when) => quote!(if w.writes(#when) { #write }),
        None => write,
    }
}
