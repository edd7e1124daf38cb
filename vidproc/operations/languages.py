"""Language codes: ``de``, ``deu`` and ``ger`` are equivalent (ISO 639-1 and 639-2)."""

from __future__ import annotations

_CODES = """
aa aar;ab abk;ae ave;af afr;ak aka;am amh;an arg;ar ara;as asm;av ava;ay aym;az aze;ba bak;be bel;
bg bul;bi bis;bm bam;bn ben;bo bod tib;br bre;bs bos;ca cat;ce che;ch cha;co cos;cr cre;cs ces cze;
cu chu;cv chv;cy cym wel;da dan;de deu ger;dv div;dz dzo;ee ewe;el ell gre;en eng;eo epo;es spa;
et est;eu eus baq;fa fas per;ff ful;fi fin;fj fij;fo fao;fr fra fre;fy fry;ga gle;gd gla;gl glg;
gn grn;gu guj;gv glv;ha hau;he heb iw;hi hin;ho hmo;hr hrv scr;ht hat;hu hun;hy hye arm;hz her;
ia ina;id ind in;ie ile;ig ibo;ii iii;ik ipk;io ido;is isl ice;it ita;iu iku;ja jpn;jv jav;
ka kat geo;kg kon;ki kik;kj kua;kk kaz;kl kal;km khm;kn kan;ko kor;kr kau;ks kas;ku kur;kv kom;
kw cor;ky kir;la lat;lb ltz;lg lug;li lim;ln lin;lo lao;lt lit;lu lub;lv lav;mg mlg;mh mah;
mi mri mao;mk mkd mac;ml mal;mn mon;mr mar;ms msa may;mt mlt;my mya bur;na nau;nb nob;nd nde;
ne nep;ng ndo;nl nld dut;nn nno;no nor;nr nbl;nv nav;ny nya;oc oci;oj oji;om orm;or ori;os oss;
pa pan;pi pli;pl pol;ps pus;pt por;qu que;rm roh;rn run;ro ron rum;ru rus;rw kin;sa san;sc srd;
sd snd;se sme;sg sag;si sin;sk slk slo;sl slv;sm smo;sn sna;so som;sq sqi alb;sr srp scc;ss ssw;
st sot;su sun;sv swe;sw swa;ta tam;te tel;tg tgk;th tha;ti tir;tk tuk;tl tgl fil;tn tsn;to ton;
tr tur;ts tso;tt tat;tw twi;ty tah;ug uig;uk ukr;ur urd;uz uzb;ve ven;vi vie;vo vol;wa wln;wo wol;
xh xho;yi yid;yo yor;za zha;zh zho chi;zu zul
"""

_CANONICAL = {
    code: codes.split()[0]
    for codes in _CODES.replace("\n", "").split(";")
    for code in codes.split()
}


def same_language(one: str, other: str) -> bool:
    """Whether two codes name the same language; regions (``de-AT``) are ignored."""
    return _canonical(one) == _canonical(other)


def three_letters(code: str) -> str:
    """Return the three letters of a two-letter code, as MP4 needs them; others as they are."""
    main = code.lower().split("-")[0]
    named = (c for c, canonical in _CANONICAL.items() if canonical == main and len(c) == 3)
    return next(named, code) if len(main) == 2 else code


def _canonical(code: str) -> str:
    main = code.lower().split("-")[0]
    return _CANONICAL.get(main, main)
