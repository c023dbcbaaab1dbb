//! `#[derive(XmlChoice)]`: an enum of elements; `#[xml("name")] Name(Struct)` or a bare `Name`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Fields, Result};

use crate::words::{variants, word};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    let mut reads = Vec::new();
    let mut writes = Vec::new();
    for variant in variants(input)? {
        let word = word(variant)?;
        let ident = &variant.ident;
        match &variant.fields {
            Fields::Unit => {
                reads.push(quote!(if node.is(#word) {
                    return ::core::result::Result::Ok(::core::option::Option::Some(Self::#ident));
                }));
                writes.push(quote!(Self::#ident => w.flag(#word),));
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                reads.push(quote!(if node.is(#word) {
                    return ::xmlform::Xml::read(node)
                        .map(|value| ::core::option::Option::Some(Self::#ident(value)));
                }));
                writes.push(quote!(Self::#ident(value) => w.element(#word, value),));
            }
            _ => return Err(Error::new_spanned(variant, "one field, or none")),
        }
    }
    Ok(quote! {
        impl ::xmlform::XmlChoice for #name {
            fn read_choice(
                node: ::xmlform::Node<'_>,
            ) -> ::core::result::Result<::core::option::Option<Self>, ::xmlform::Error> {
                #(#reads)*
                ::core::result::Result::Ok(::core::option::Option::None)
            }
            fn write_choice(&self, w: &mut ::xmlform::Writer) {
                match self { #(#writes)* }
            }
        }
    })
}
