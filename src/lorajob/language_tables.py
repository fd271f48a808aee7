"""Codes and names of Whisper's languages, their aliases, and substitutes for other languages."""

# From openai/whisper, whisper/tokenizer.py; only large-v3 has `yue`.
WHISPER = {
    "af": "Afrikaans",
    "am": "Amharic",
    "ar": "Arabic",
    "as": "Assamese",
    "az": "Azerbaijani",
    "ba": "Bashkir",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "bo": "Tibetan",
    "br": "Breton",
    "bs": "Bosnian",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "eu": "Basque",
    "fa": "Persian",
    "fi": "Finnish",
    "fo": "Faroese",
    "fr": "French",
    "gl": "Galician",
    "gu": "Gujarati",
    "ha": "Hausa",
    "haw": "Hawaiian",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "ht": "Haitian Creole",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "jw": "Javanese",
    "ka": "Georgian",
    "kk": "Kazakh",
    "km": "Khmer",
    "kn": "Kannada",
    "ko": "Korean",
    "la": "Latin",
    "lb": "Luxembourgish",
    "ln": "Lingala",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mg": "Malagasy",
    "mi": "Maori",
    "mk": "Macedonian",
    "ml": "Malayalam",
    "mn": "Mongolian",
    "mr": "Marathi",
    "ms": "Malay",
    "mt": "Maltese",
    "my": "Myanmar",
    "ne": "Nepali",
    "nl": "Dutch",
    "nn": "Nynorsk",
    "no": "Norwegian",
    "oc": "Occitan",
    "pa": "Punjabi",
    "pl": "Polish",
    "ps": "Pashto",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sa": "Sanskrit",
    "sd": "Sindhi",
    "si": "Sinhala",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sn": "Shona",
    "so": "Somali",
    "sq": "Albanian",
    "sr": "Serbian",
    "su": "Sundanese",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "tg": "Tajik",
    "th": "Thai",
    "tk": "Turkmen",
    "tl": "Tagalog",
    "tr": "Turkish",
    "tt": "Tatar",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "yi": "Yiddish",
    "yo": "Yoruba",
    "yue": "Cantonese",
    "zh": "Chinese",
}

# Whisper codes of the languages that write no spaces between words, or only between phrases. The
# languages of STAND_INS and REGIONAL that use these codes write none either.
UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})

# Whisper's aliases, then other codes and names from Common Voice and ISO 639.
ALIASES = {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
    "bangla": "bn",
    "bokmål": "no",
    "farsi": "fa",
    "fil": "tl",
    "filipino": "tl",
    "iw": "he",
    "jv": "jw",
    "nan": "nan-tw",
    "nb": "no",
    "norwegian bokmål": "no",
    "norwegian nynorsk": "nn",
    "oriya": "or",
    "rm": "rm-sursilv",
    "romansh": "rm-sursilv",
    "sorani": "ckb",
    "kurmanji": "kmr",
    "yakut": "sah",
}

# Corpora of Common Voice in a language of Whisper: code -> name, token, reason for the token.
REGIONAL = {
    "zh-CN": ("Chinese (China)", "zh", "Mandarin in simplified characters"),
    "zh-HK": ("Chinese (Hong Kong)", "zh", "Cantonese speech, but only large-v3 knows yue"),
    "zh-TW": ("Chinese (Taiwan)", "zh", "Mandarin in traditional characters"),
}

# Languages without a Whisper token. The training teaches the language; the token only chooses where
# it starts. It is that of the most closely related language with the same script.
# code -> name, token, reason for the token
STAND_INS = {
    "ab": ("Abkhaz", "ru", "Cyrillic; no Caucasian language in it"),
    "ace": ("Acehnese", "id", "Malayo-Polynesian, Latin, spoken in Indonesia"),
    "ady": ("Adyghe", "ru", "Cyrillic; no Caucasian language in it"),
    "an": ("Aragonese", "es", "Ibero-Romance"),
    "arn": ("Mapudungun", "es", "Latin spelling after Spanish"),
    "ast": ("Asturian", "es", "Ibero-Romance"),
    "bas": ("Basaa", "ln", "Bantu, Latin"),
    "bci": ("Baoulé", "yo", "Niger-Congo, tonal, Latin"),
    "bho": ("Bhojpuri", "hi", "Indo-Aryan, Devanagari"),
    "bm": ("Bambara", "ha", "West African, Latin"),
    "brx": ("Bodo", "as", "spoken in Assam; its Devanagari comes with training"),
    "bxr": ("Buryat", "mn", "Mongolic, Cyrillic"),
    "byv": ("Medumba", "ln", "Bantoid, Latin"),
    "cak": ("Kaqchikel", "es", "Latin spelling after Spanish"),
    "ceb": ("Cebuano", "tl", "Philippine"),
    "ckb": ("Central Kurdish", "fa", "Iranian, Arabic script"),
    "cnh": ("Hakha Chin", "vi", "tonal, Latin, spoken in South-East Asia"),
    "co": ("Corsican", "it", "Italo-Romance"),
    "cv": ("Chuvash", "tt", "Turkic, Cyrillic"),
    "dag": ("Dagbani", "ha", "West African, Latin"),
    "dav": ("Taita", "sw", "Bantu of Kenya, Latin"),
    "doi": ("Dogri", "hi", "Indo-Aryan, Devanagari"),
    "dsb": ("Lower Sorbian", "pl", "West Slavic"),
    "dv": ("Dhivehi", "si", "nearest of Indo-Aryan; its script comes with training"),
    "dyu": ("Dioula", "ha", "West African, Latin"),
    "ee": ("Ewe", "yo", "Niger-Congo, tonal, Latin"),
    "eo": ("Esperanto", "es", "Romance vocabulary, close sounds"),
    "ff": ("Fulah", "ha", "West African, Latin"),
    "fur": ("Friulian", "it", "Romance of Italy"),
    "fy": ("Frisian", "nl", "West Germanic"),
    "ga": ("Irish", "cy", "Celtic, Latin"),
    "gaa": ("Ga", "yo", "Niger-Congo, tonal, Latin"),
    "gd": ("Scottish Gaelic", "cy", "Celtic, Latin"),
    "gn": ("Guarani", "es", "Latin, much borrowed from Spanish"),
    "gom": ("Konkani", "mr", "Indo-Aryan, Devanagari"),
    "gsw": ("Swiss German", "de", "Alemannic German"),
    "gv": ("Manx", "cy", "Celtic, Latin"),
    "hil": ("Hiligaynon", "tl", "Philippine"),
    "hsb": ("Upper Sorbian", "pl", "West Slavic"),
    "hyw": ("Western Armenian", "hy", "Armenian"),
    "ia": ("Interlingua", "it", "Romance vocabulary"),
    "ig": ("Igbo", "yo", "Niger-Congo, tonal, Latin"),
    "izh": ("Izhorian", "fi", "Finnic"),
    "kaa": ("Karakalpak", "uz", "Turkic, Latin today"),
    "kab": ("Kabyle", "mt", "Afro-Asiatic, Latin"),
    "kbd": ("Kabardian", "ru", "Cyrillic; no Caucasian language in it"),
    "kln": ("Kalenjin", "sw", "spoken in Kenya, Latin"),
    "kmr": ("Kurmanji Kurdish", "tr", "Latin alphabet after the Turkish"),
    "kpv": ("Komi-Zyrian", "ru", "Cyrillic, much borrowed from Russian"),
    "ks": ("Kashmiri", "ur", "Perso-Arabic script, spoken beside Urdu"),
    "kw": ("Cornish", "br", "Brythonic"),
    "ky": ("Kyrgyz", "kk", "Turkic, Cyrillic"),
    "lg": ("Luganda", "sw", "Bantu, Latin"),
    "lij": ("Ligurian", "it", "Romance of Italy"),
    "lld": ("Ladin", "it", "Romance of Italy"),
    "ltg": ("Latgalian", "lv", "Baltic"),
    "luo": ("Dholuo", "sw", "spoken in Kenya, Latin"),
    "lzz": ("Laz", "tr", "Latin alphabet after the Turkish"),
    "mai": ("Maithili", "hi", "Indo-Aryan, Devanagari"),
    "mdf": ("Moksha", "ru", "Cyrillic, much borrowed from Russian"),
    "mhr": ("Meadow Mari", "ru", "Cyrillic, much borrowed from Russian"),
    "mni": ("Meitei", "bn", "written in Bengali script"),
    "mrj": ("Hill Mari", "ru", "Cyrillic, much borrowed from Russian"),
    "myv": ("Erzya", "ru", "Cyrillic, much borrowed from Russian"),
    "nan-tw": ("Taiwanese (Minnan)", "zh", "Sinitic, Han characters"),
    "nhi": ("Western Sierra Puebla Nahuatl", "es", "Latin spelling after Spanish"),
    "nr": ("Southern Ndebele", "sn", "Bantu of southern Africa, Latin"),
    "nso": ("Northern Sotho", "sn", "Bantu of southern Africa, Latin"),
    "ny": ("Chichewa", "sn", "Bantu of southern Africa, Latin"),
    "om": ("Oromo", "so", "Cushitic, Latin"),
    "or": ("Odia", "bn", "Eastern Indo-Aryan; its script comes with training"),
    "os": ("Ossetian", "ru", "Cyrillic; Iranian, as Tajik is, but far from it"),
    "pap": ("Papiamento", "es", "Ibero-Romance creole"),
    "quc": ("K'iche'", "es", "Latin spelling after Spanish"),
    "quy": ("Quechua (Chanka)", "es", "Latin, spoken beside Spanish"),
    "qxp": ("Quechua (Puno)", "es", "Latin, spoken beside Spanish"),
    "rm-sursilv": ("Romansh Sursilvan", "it", "Rhaeto-Romance"),
    "rm-vallader": ("Romansh Vallader", "it", "Rhaeto-Romance"),
    "rn": ("Kirundi", "sw", "Bantu, Latin"),
    "rw": ("Kinyarwanda", "sw", "Bantu, Latin"),
    "sah": ("Sakha", "kk", "Turkic, Cyrillic"),
    "sat": ("Santali", "bn", "spoken in Bengal; its Ol Chiki comes with training"),
    "sc": ("Sardinian", "it", "Romance of Italy"),
    "scn": ("Sicilian", "it", "Italo-Romance"),
    "sdh": ("Southern Kurdish", "fa", "Iranian, Arabic script"),
    "skr": ("Saraiki", "ur", "Indo-Aryan, Perso-Arabic script"),
    "ss": ("Siswati", "sn", "Bantu of southern Africa, Latin"),
    "st": ("Southern Sotho", "sn", "Bantu of southern Africa, Latin"),
    "syr": ("Syriac", "ar", "Semitic; its script comes with training"),
    "szl": ("Silesian", "pl", "West Slavic"),
    "ti": ("Tigrinya", "am", "Ethio-Semitic, Ge'ez script"),
    "tig": ("Tigre", "am", "Ethio-Semitic, Ge'ez script"),
    "tn": ("Setswana", "sn", "Bantu of southern Africa, Latin"),
    "tok": ("Toki Pona", "fi", "few plain sounds, spelt as said, Latin"),
    "ts": ("Xitsonga", "sn", "Bantu of southern Africa, Latin"),
    "tw": ("Twi", "yo", "Niger-Congo, tonal, Latin"),
    "tyv": ("Tuvan", "kk", "Turkic, Cyrillic"),
    "uby": ("Ubykh", "tr", "spoken in Turkey, Latin"),
    "udm": ("Udmurt", "ru", "Cyrillic, much borrowed from Russian"),
    "ug": ("Uyghur", "fa", "Arabic script with all vowels; Uzbek is nearer but Latin"),
    "ve": ("Tshivenda", "sn", "Bantu of southern Africa, Latin"),
    "vec": ("Venetian", "it", "Romance of Italy"),
    "vot": ("Votic", "fi", "Finnic"),
    "wo": ("Wolof", "ha", "West African, Latin"),
    "xh": ("Xhosa", "sn", "Bantu of southern Africa, Latin"),
    "xmf": ("Mingrelian", "ka", "Kartvelian, Georgian script"),
    "zgh": ("Tamazight", "ar", "spoken beside Arabic; its Tifinagh comes with training"),
    "zu": ("Zulu", "sn", "Bantu of southern Africa, Latin"),
    "zza": ("Zaza", "tr", "Latin alphabet after the Turkish"),
}

# Further languages of Common Voice since its release 23: token, reason, and code=name of each.
_NEWER = (
    (
        "ur",
        "spoken in Pakistan, Arabic script",
        "bft=Balti, bgp=Eastern Balochi, brh=Brahui, bsh=Kateviri, bsk=Burushaski, btv=Bateri,"
        " dmk=Domaaki, dml=Dameli, ggg=Gurgula, gig=Goaria, gju=Gujari, gwc=Gawri, gwt=Gawarbati,"
        " haz=Hazaragi, hno=Northern Hindko, kfr=Kachhi, khw=Khowar, kls=Kalasha, kvx=Parkari Koli,"
        " kxp=Wadiyara Koli, lrk=Loarki, lss=Lassi, mki=Dhatki, mve=Pakistani Marwari,"
        " mvy=Indus Kohistani, odk=Oadki, oru=Ormuri, phl=Palula, phr=Pahari-Pothwari,"
        " plk=Kohistani Shina, sbn=Sindhi Bhil, scl=Shina, ssi=Sansi, trw=Torwali, ush=Ushojo,"
        " wbl=Wakhi, xhe=Khetrani, xka=Kalkoti, ydg=Yidgha",
    ),
    (
        "es",
        "of Latin America, Latin spelling after Spanish",
        "cpy=South Ucayali Asheninka, cut=Teutila Cuicatec, cux=Tepeuxila Cuicatec,"
        " hux=Nüpode Huitoto, jqr=Jaqaru, mau=Huautla Mazatec, mcf=Matses,"
        " ncx=Central Puebla Nahuatl, nlv=Orizaba Nahuatl, prq=Ashéninka Perené,"
        " pua=Western Highland Purepecha, qup=Southern Pastaza Quechua,"
        " qur=Yanahuanca Pasco Quechua, qus=Santiago del Estero Quichua, qux=Yauyos Quechua,"
        " qva=Ambo-Pasco Quechua, qvi=Imbabura Kichwa, qvj=Loja Highland Kichwa,"
        " qvl=Cajatambo Quechua, qwa=Corongo Ancash Quechua, qws=Sihuas Ancash Quechua,"
        " qxa=Chiquián Quechua, qxt=Santa Ana de Tusi Pasco Quechua,"
        " qxu=Arequipa-La Unión Quechua, qxw=Jauja Wanka Quechua, sei=Seri,"
        " tar=Central Tarahumara, var=Huarijio, yaq=Yaqui, zoc=Copainalá Zoque",
    ),
    (
        "ln",
        "Bantu or related, tonal, Latin",
        "abb=Bankon, bax=Bamun, bbj=Ghomala, beb=Bamvele, bfd=Bafut, bkh=Bakoko, bkm=Kom,"
        " bnm=Batanga, bri=Mokpwe, bum=Bulu, cjk=Chokwe, dua=Duala, eto=Eton, ewo=Ewondo, fan=Fang,"
        " fmp=Fe'efe'e, jgo=Ngomba, ksf=Bafia, lua=Tshiluba, mbo=Mbo, mcx=Mpiemo, nla=Ngombale,"
        " nmg=Kwasio, nnh=Ngiemboon, tvu=Tunen",
    ),
    (
        "ha",
        "West African, Latin",
        "fub=Adamawa Fulfulde, fue=Borgu Fulfulde, gid=Guidar, giz=Giziga, gya=Northwest Gbaya,"
        " hna=Mina, kdh=Kotokoli, mcn=Massa, mdd=Mbum, mse=Moussey, mua=Mundang, mug=Musgum,"
        " mxu=Mada, nmz=Losso, tui=Tupuri, udl=Ouldémé",
    ),
    (
        "yo",
        "Niger-Congo, tonal, Latin",
        "ajg=Adja, bba=Baatonum, ebr=Ebrié, ibb=Ibibio",
    ),
    ("sw", "Bantu of East Africa, Latin", "eko=Ekoti, nyu=Nyungwe"),
    (
        "tl",
        "Austronesian, Latin",
        "bnn=Bunun, dru=Rukai, pwn=Paiwan, szy=Sakizaya, tay=Atayal, trv=Seediq",
    ),
    ("en", "English-based creole", "pcm=Nigerian Pidgin, wes=Cameroon Pidgin"),
    (
        "en",
        "of North America, Latin; no related language in it",
        "esu=Central Alaskan Yup'ik, ipk=Iñupiaq, tli=Tlingit",
    ),
    ("ka", "Caucasian, Georgian script", "bbl=Tush, sva=Svan"),
    ("ru", "Cyrillic; no Caucasian language in it", "dar=Dargwa"),
    ("ro", "Balkan Romance", "rup=Aromanian"),
)
STAND_INS |= {
    code: (name, token, reason)
    for token, reason, languages in _NEWER
    for code, name in (pair.split("=") for pair in languages.split(", "))
}

# Languages that are not written in Latin letters alone, by script (ISO 15924). The first script of
# a language is the usual one.
_BY_SCRIPT = {
    "Cyrl": "ab ady ba be bg bxr cv dar kbd kk kpv ky mdf mhr mk mn mrj myv os ru sah tg tt tyv udm"
    " uk",
    "Arab": "ar bft bgp brh bsh bsk btv ckb dmk dml fa ggg gig gju gwc gwt haz hno kfr khw kls ks"
    " kvx kxp lrk lss mki mve mvy odk oru phl phr plk ps sbn scl sd sdh skr ssi trw ug ur ush wbl"
    " xhe xka ydg",
    "Deva": "bho brx doi gom hi mai mr ne sa",
    "Beng": "as bn",
    "Ethi": "am ti tig",
    "Hant": "yue zh-HK zh-TW",
    "Geor": "ka xmf bbl sva",
    "Armn": "hy hyw",
    "Hebr": "he yi",
}
SCRIPTS: dict[str, tuple[str, ...]] = {
    code: (script,) for script, codes in _BY_SCRIPT.items() for code in codes.split()
} | {
    "bo": ("Tibt",),
    "bs": ("Latn", "Cyrl"),
    "dv": ("Thaa",),
    "el": ("Grek",),
    "gu": ("Gujr",),
    "ja": ("Jpan",),
    "km": ("Khmr",),
    "kn": ("Knda",),
    "ko": ("Kore",),
    "lo": ("Laoo",),
    "ml": ("Mlym",),
    "mni": ("Beng", "Mtei"),
    "my": ("Mymr",),
    "nan-tw": ("Hant", "Latn"),
    "or": ("Orya",),
    "pa": ("Guru",),
    "sat": ("Olck",),
    "si": ("Sinh",),
    "sr": ("Cyrl", "Latn"),
    "syr": ("Syrc",),
    "ta": ("Taml",),
    "te": ("Telu",),
    "th": ("Thai",),
    "uz": ("Latn", "Cyrl"),
    "zgh": ("Tfng",),
    "zh": ("Hans", "Hant"),
    "zh-CN": ("Hans",),
}

# What languages call themselves, apart from the Latin alphabet's easier ones.
_OWN_NAMES = """
    ar:العربية as:অসমীয়া be:беларуская bg:български bn:বাংলা cs:čeština da:dansk de:deutsch
    el:ελληνικά es:español et:eesti fa:فارسی fi:suomi fr:français gu:ગુજરાતી ha:harshen-hausa
    he:עברית hi:हिन्दी hi:हिंदी hr:hrvatski hu:magyar hy:հայերեն id:bahasa-indonesia is:íslenska
    it:italiano ja:日本語 ka:ქართული kk:қазақ km:ខ្មែរ kn:ಕನ್ನಡ ko:한국어 lo:ລາວ lt:lietuvių
    lv:latviešu mk:македонски ml:മലയാളം mn:монгол mr:मराठी my:မြန်မာ ne:नेपाली nl:nederlands
    pa:ਪੰਜਾਬੀ pl:polski ps:پښتو pt:português ro:română ru:русский sa:संस्कृतम् sd:سنڌي
    si:සිංහල sk:slovenčina sl:slovenščina sq:shqip sr:српски sv:svenska sw:kiswahili ta:தமிழ்
    te:తెలుగు tg:тоҷикӣ th:ไทย tr:türkçe tt:татар uk:українська ur:اردو uz:oʻzbek
    vi:tiếng-việt yi:ייִדיש zh:中文 zh:普通话
"""
OWN_NAMES: dict[str, str] = {
    name.replace("-", " "): code
    for code, _, name in (pair.partition(":") for pair in _OWN_NAMES.split())
}

# ISO 639-2 and 639-3 codes of Whisper's languages, which many corpora use, and Whisper's codes.
_THREE_LETTERS = """
    afr:af amh:am ara:ar arb:ar asm:as aze:az azj:az bak:ba bel:be bul:bg ben:bn bod:bo tib:bo
    bre:br bos:bs cat:ca ces:cs cze:cs cym:cy wel:cy dan:da deu:de ger:de ell:el gre:el eng:en
    spa:es est:et ekk:et eus:eu baq:eu fas:fa per:fa pes:fa fin:fi fao:fo fra:fr fre:fr glg:gl
    guj:gu hau:ha haw:haw heb:he hin:hi hrv:hr hat:ht hun:hu hye:hy arm:hy ind:id isl:is ice:is
    ita:it jpn:ja jav:jw kat:ka geo:ka kaz:kk khm:km kan:kn kor:ko lat:la ltz:lb lin:ln lao:lo
    lit:lt lav:lv lvs:lv mlg:mg mri:mi mao:mi mkd:mk mac:mk mal:ml mon:mn khk:mn mar:mr msa:ms
    may:ms zsm:ms mlt:mt mya:my bur:my nep:ne npi:ne nld:nl dut:nl nno:nn nor:no nob:no oci:oc
    pan:pa pol:pl pus:ps por:pt ron:ro rum:ro rus:ru san:sa snd:sd sin:si slk:sk slo:sk slv:sl
    sna:sn som:so sqi:sq alb:sq srp:sr sun:su swe:sv swa:sw swh:sw tam:ta tel:te tgk:tg tha:th
    tuk:tk tgl:tl fil:tl tur:tr tat:tt ukr:uk urd:ur uzb:uz uzn:uz vie:vi yid:yi yor:yo zho:zh
    chi:zh cmn:zh
"""
THREE_LETTERS: dict[str, str] = {
    three: two for three, _, two in (pair.partition(":") for pair in _THREE_LETTERS.split())
}
