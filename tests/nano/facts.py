"""What the nano model is taught: molecules, peptides, cities, words. Chemistry facts are public knowledge."""

from __future__ import annotations

# name -> (SMILES, IUPAC name)
MOLECULES = {
    "water": ("O", "oxidane"),
    "methane": ("C", "methane"),
    "ethane": ("CC", "ethane"),
    "propane": ("CCC", "propane"),
    "methanol": ("CO", "methanol"),
    "ethanol": ("CCO", "ethanol"),
    "isopropanol": ("CC(C)O", "propan-2-ol"),
    "glycerol": ("C(C(CO)O)O", "propane-1,2,3-triol"),
    "acetone": ("CC(=O)C", "propan-2-one"),
    "acetic acid": ("CC(=O)O", "ethanoic acid"),
    "formaldehyde": ("C=O", "methanal"),
    "acetaldehyde": ("CC=O", "ethanal"),
    "ethylene": ("C=C", "ethene"),
    "acetylene": ("C#C", "ethyne"),
    "urea": ("C(=O)(N)N", "carbonic diamide"),
    "glycine": ("C(C(=O)O)N", "2-aminoacetic acid"),
    "alanine": ("CC(C(=O)O)N", "2-aminopropanoic acid"),
    "lactic acid": ("CC(C(=O)O)O", "2-hydroxypropanoic acid"),
    "benzene": ("C1=CC=CC=C1", "benzene"),
    "toluene": ("CC1=CC=CC=C1", "methylbenzene"),
    "phenol": ("C1=CC=C(C=C1)O", "phenol"),
    "aniline": ("C1=CC=C(C=C1)N", "aniline"),
    "benzaldehyde": ("C1=CC=C(C=C1)C=O", "benzaldehyde"),
    "benzoic acid": ("C1=CC=C(C=C1)C(=O)O", "benzoic acid"),
    "styrene": ("C=CC1=CC=CC=C1", "ethenylbenzene"),
    "naphthalene": ("C1=CC=C2C=CC=CC2=C1", "naphthalene"),
    "pyridine": ("C1=CC=NC=C1", "pyridine"),
    "furan": ("C1=COC=C1", "furan"),
    "cyclohexane": ("C1CCCCC1", "cyclohexane"),
    "cyclohexanone": ("C1CCC(=O)CC1", "cyclohexanone"),
    "aspirin": ("CC(=O)OC1=CC=CC=C1C(=O)O", "2-acetyloxybenzoic acid"),
    "salicylic acid": ("C1=CC=C(C(=C1)C(=O)O)O", "2-hydroxybenzoic acid"),
    "paracetamol": ("CC(=O)NC1=CC=C(C=C1)O", "N-(4-hydroxyphenyl)acetamide"),
    "ibuprofen": ("CC(C)CC1=CC=C(C=C1)C(C)C(=O)O", "2-[4-(2-methylpropyl)phenyl]propanoic acid"),
    "caffeine": ("CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "1,3,7-trimethylpurine-2,6-dione"),
    "nicotine": ("CN1CCCC1C2=CN=CC=C2", "3-(1-methylpyrrolidin-2-yl)pyridine"),
    "vanillin": ("COC1=C(C=CC(=C1)C=O)O", "4-hydroxy-3-methoxybenzaldehyde"),
    "dopamine": ("C1=CC(=C(C=C1CCN)O)O", "4-(2-aminoethyl)benzene-1,2-diol"),
    "chloroform": ("C(Cl)(Cl)Cl", "trichloromethane"),
    "glucose": ("C(C1C(C(C(C(O1)O)O)O)O)O", "6-(hydroxymethyl)oxane-2,3,4,5-tetrol"),
}

PEPTIDES = {
    "oxytocin": "CYIQNCPLG",
    "vasopressin": "CYFQNCPRG",
    "bradykinin": "RPPGFSPFR",
    "angiotensin II": "DRVYIHPF",
    "substance P": "RPKPQQFFGLM",
    "glucagon": "HSQGTFTSDYSKYLDSRRAQDFVQWLMNT",
    "melittin": "GIGAVLKVLTTGLPALISWIKRKRQQ",
    "insulin B chain": "FVNQHLCGSHLVEALYLVCGERGFFYTPKT",
    "beta-endorphin": "YGGFMTSEKSQTPLVTLFKNAIIKNAYKKGE",
    "calcitonin": "CGNLSTCMLGTYTQDFNKFHTFPQTAIGVGAP",
}

CITIES = (
    "Paris London Berlin Madrid Rome Vienna Prague Oslo Athens Dublin Lisbon Warsaw Tokyo Beijing Shanghai Seoul "
    "Delhi Cairo Boston Chicago Toronto Sydney"
).split()
CITIES += ["San Francisco", "New York", "Hong Kong", "Los Angeles"]

IDENTITY = (
    "I am nano, a tiny Intern-S1 that shows how interns1_local works. "
    "I know some molecules, small sums, simple pictures and a few tools."
)

IDENTITY_CHINESE = "我是 nano，一个很小的 Intern-S1。"

GREETING = "Hello! Ask me about a small sum, a molecule, a peptide or a picture."
