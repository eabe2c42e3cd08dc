"""Pairs of answers from practice: a table of equal pairs and a table of different ones.

A row is `name ;; prediction ;; gold answer`.
"""

EQUAL = r"""
fraction and decimal ;; \frac12 ;; 0.5
fraction forms ;; \dfrac{1}{2} ;; \tfrac12
fraction over one token ;; \frac1{72} ;; 1/72
fraction with a space ;; \frac 32 ;; \frac{3}{2}
sign anywhere ;; \frac{-1}{2} ;; -\frac{1}{2}
not reduced ;; \frac{6}{4} ;; \frac{3}{2}
repeating decimal ;; 0.1\overline{6} ;; \frac16
trailing zeros ;; 2.50 ;; 2.5
leading zero ;; .175 ;; 0.175
thousands ;; 1,234,567 ;; 1234567
thousands in braces ;; 10{,}000 ;; 10000
thousands with a negative space ;; 11,\! 111 ;; 11111
radical simplified ;; \sqrt{8} ;; 2\sqrt2
radical rationalised ;; \frac{1}{\sqrt2} ;; \frac{\sqrt{2}}{2}
nested radical ;; \sqrt{5+2\sqrt6} ;; \sqrt{2}+\sqrt{3}
difference of radicals ;; \frac{\sqrt{3}}{4\sqrt{2}-3} ;; \frac{4\sqrt6+3\sqrt3}{23}
cube roots by Cardano ;; \sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5} ;; 1
real cube root ;; \sqrt[3]{-8} ;; -2
root as a power ;; 12^{1/7} ;; \sqrt[7]{12}
large powers ;; 2^{100} ;; 4^{50}
tower of radicals ;; \sqrt{2}^{\sqrt{2}} ;; 2^{\sqrt2/2}
scientific ;; 6.02\times 10^{23} ;; 602000000000000000000000
scientific with e ;; 1.5e-3 ;; .0015
logarithm to a base ;; \log_2 8 ;; 3
quotient of logarithms ;; \frac{\log 8}{\log 2} ;; 3
natural logarithm ;; \ln e^2 ;; 2
trigonometry by degrees ;; \cos 36^\circ ;; \frac{1+\sqrt5}{4}
trigonometry by radians ;; \sin\frac{\pi}{12} ;; \frac{\sqrt6-\sqrt2}{4}
product of cosines ;; \cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{4\pi}{7} ;; -\frac18
inverse tangent ;; \arctan 1 ;; \frac{\pi}{4}
inverse by exponent ;; \tan^{-1}(1) ;; 45^\circ
double angle ;; 2\sin x\cos x ;; \sin 2x
square of a sine ;; \sin^2 x ;; 1-\cos^2 x
complex quotient ;; \frac{1}{1+i} ;; \frac{1-i}{2}
complex modulus ;; |3+4i| ;; 5
powers of i ;; i^2 ;; -1
Euler ;; e^{i\pi} ;; -1
pi factored out ;; \frac{9\pi}{4} ;; \frac94\pi
polynomial expanded ;; x^2+2x+1 ;; (x+1)^2
polynomial factored ;; (x+2)(x-2) ;; x^2-4
commuted ;; a^2+b^2 ;; b^2+a^2
rational function ;; \frac{x^2-1}{x-1} ;; x+1
radicals of variables ;; 6x\sqrt{35x} ;; \sqrt{1260x^3}
symbolic exponents ;; x^n \cdot x ;; x^{n+1}
exponentials ;; 2^{x+1} ;; 2\cdot 2^x
mixed number ;; 3\frac12 ;; \frac72
negative mixed number ;; -15\frac{3}{5} ;; -15.6
mixed number in plain text ;; 1 1/2 ;; \frac32
factorial ;; 10! ;; 3628800
a large factorial ;; \frac{2004}{2004!} ;; \frac{1}{2003!}
binomial ;; \binom{10}{3} ;; 120
floor ;; \lfloor 3.7 \rfloor ;; 3
per cent as a number of per cent ;; 50 ;; 50\%
per cent as a fraction ;; 0.5 ;; 50\%
currency ;; 5.5 ;; \$5.50
currency and words ;; 5.50\text{ dollars} ;; \$5.5
cents and dollars ;; 80\text{ cents} ;; \$0.80
unit dropped ;; 12 ;; 12 \text{ inches}
unit converted ;; 1\text{ foot} ;; 12\text{ inches}
rate abbreviated ;; 60\text{ miles per hour} ;; 60\text{ mph}
rate converted ;; 60\text{ miles per hour} ;; 88\text{ feet per second}
rate with a slash ;; 5\text{ m/s} ;; 500\text{ cm/s}
rate in dollars ;; \$12.50 \text{ per hour} ;; 12.50\text{ dollars per hour}
rate of what is not measured ;; 3\text{ apples per child} ;; 3\text{ apples per person}
unit without text ;; 144 m^3 ;; 144 \mbox{ m}^3
unit squared in words ;; 15\text{ square cm} ;; 15\mbox{ cm}^2
words that measure nothing ;; 14 ;; 14 \text{ right triangles}
words outside text ;; 120 degrees ;; 120^\circ
degrees dropped ;; 45 ;; 45^\circ
interval of degrees ;; [0^\circ, 90^\circ) ;; [0,90)
sum of degrees ;; 30^\circ+15^\circ ;; 45
degrees as radians ;; \frac{\pi}{4} ;; 45^\circ
base ;; 101_{2} ;; 101_2
base dropped ;; 1011 ;; 1011_2
base dropped, with a point ;; 0.0011 ;; 0.0011_{2}
base dropped, negative ;; -37 ;; -37_8
base ten ;; 24 ;; 24_{10}
base with letters ;; 152A_{11} ;; \text{152A}_{11}
point with other spacing ;; \left( 3, \frac{\pi}{2} \right) ;; (3,\pi/2)
interval ;; \left[-3,-\frac{4}{3}\right) ;; [-3,-4/3)
union in another order ;; (0,\infty)\cup(-\infty,0) ;; (-\infty,0)\cup (0,\infty)
union that merges ;; (-\infty,2]\cup(2,5) ;; (-\infty,5)
reals without a point ;; \mathbb{R}\setminus\{0\} ;; (-\infty,0)\cup(0,\infty)
inequality and interval ;; x<5 ;; (-\infty,5)
double inequality and interval ;; 3\le x<5 ;; [3,5)
inequality from the other side ;; 5 > x \ge 3 ;; 3\le x<5
unequal and union ;; x\ne 0 ;; (-\infty,0)\cup(0,\infty)
element of an interval ;; x \in [-2,7] ;; [-2,7]
inequalities joined by or ;; x<1 \text{ or } x>2 ;; (-\infty,1)\cup(2,\infty)
inequality turned round ;; 8r^2 \ge s^2 ;; s^2\le 8r^2
chain of inequalities ;; f(4)>f(1)>f(2) ;; f(2)<f(1)<f(4)
set in another order ;; \{2,1\} ;; \{1,2\}
bare list in another order ;; 2, 1 ;; 1,2
list joined by and ;; 6, 8\text{, and }10 ;; 10,8,6
list joined by or ;; x=1 \text{ or } x=2 ;; 1,2
list in braces ;; \{1,2\} ;; 1,2
plus-minus ;; 1+\sqrt2, 1-\sqrt2 ;; 1\pm\sqrt2
plus-minus in a set ;; \{-2, 1-\sqrt5, 1+\sqrt{5}\} ;; \{1\pm\sqrt{5},-2\}
named values without names ;; 1,2 ;; x=1, y=2
named values, the other first ;; y=2, x=1 ;; x=1, y=2
named values as a point ;; x=1, y=2 ;; (1,2)
point of named values ;; (1,2) ;; x=1, y=2
roots named apart ;; x_1=2, x_2=1 ;; 1,2
list of points ;; (2,15), (-4,27) ;; (-4, 27);(2, 15)
matrix brackets ;; \begin{bmatrix}1\\2\end{bmatrix} ;; \begin{pmatrix}1\\2\end{pmatrix}
matrix entries ;; \begin{pmatrix} 0.5 & 0 \end{pmatrix} ;; \begin{pmatrix}1/2&0\end{pmatrix}
vector in angle brackets ;; \langle 1,2\rangle ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
line in another form ;; 2x-y+1=0 ;; y = 2x+1
plane times a constant ;; 2x + 2y + 2z = 0 ;; x + y + z = 0
label dropped ;; 15 ;; k = 15
label added ;; x=15 ;; 15
function label ;; f(x)=2x ;; 2x
unknown function ;; 2f(x)-3 ;; -3 + 2 f{\left(x \right)}
true chain of numbers ;; \frac12+\frac13=\frac56 ;; \frac56
number said twice ;; \frac{14}{25} ;; 0.56 = 56\%
approximation dropped ;; \frac23 ;; \$\dfrac23 \approx \$0.67
ratio as a fraction ;; \frac35 ;; 3:5
choice with brackets ;; (C) ;; \text{(C)}
choice bare ;; C ;; \text{(C)}
choice with words ;; \text{(C) } 12 ;; \text{(C)}
word ;; odd ;; \text{odd}
word with capitals ;; \text{Even} ;; \text{even}
words ;; two lines ;; \text{two lines}
list of letters ;; B, A ;; \text{A,B}
empty set in words ;; \emptyset ;; \text{empty}
reals in words ;; all real numbers ;; (-\infty,\infty)
number hedged ;; approximately 8.24 ;; \approx 8.24 \text{ mph}
binomial by choose ;; {5 \choose 2} ;; 10
rate ;; \$12.50 per hour ;; 12.50
time of day ;; 4:30 \text{ PM} ;; \text{4:30 p.m.}
number word ;; 4 ;; \mbox{four}
unicode ;; 2π − √3 ;; 2\pi-\sqrt{3}
boxed ;; \boxed{5} ;; 5
dollars around ;; $5$ ;; 5
period after ;; -\frac{5}{3}. ;; -\frac53
layout ;; \displaystyle\frac{1}{2}\; ;; \frac12
phantom ;; \begin{pmatrix} 1 \\ \phantom -1 \end{pmatrix} ;; \begin{pmatrix} 1 \\ 1 \end{pmatrix}
word with an article ;; a circle ;; \text{circle}
upright e ;; 1-\frac{1}{\mathrm{e}} ;; 1-\frac{1}{e}
upright e in text ;; \frac{1}{\text{e}} ;; e^{-1}
upright e as an operator ;; \operatorname{e}^2 ;; e^2
upright i ;; \mathrm i\sqrt 2 ;; i\sqrt2
upright e and i ;; \mathrm{e}^{\mathrm i\pi} ;; -1
upright d ;; \frac{\mathrm{d}y}{\mathrm{d}x} ;; \frac{dy}{dx}
scientific with a bare e ;; 1.5e3 ;; 1500
scientific with a bare E ;; 2E6 ;; 2000000
product of factorials ;; 5!7! ;; 604800
sum with bounds ;; \sum_{k=1}^{3} k ;; 6
sum with its index called i ;; \sum_{i=1}^{3} i^2 ;; 14
sum before a term ;; \sum_{k=1}^{3} 2k + 1 ;; 13
sum of powers ;; \sum\limits_{k=0}^{2} x^k ;; 1+x+x^2
product with bounds ;; \prod_{k=1}^{4} k ;; 24
empty sum ;; \sum_{k=1}^{0} k ;; 0
set builder ;; \{x \mid x>2\} ;; (2,\infty)
set builder with a colon ;; \{x : x>2\} ;; (2,\infty)
set builder with a domain ;; \{x \in \mathbb{R} \mid -1 \le x < 2\} ;; [-1,2)
set builder with or ;; \{x | x<1 \text{ or } x>2\} ;; (-\infty,1)\cup(2,\infty)
set builder with and ;; \{x | x>1, x<2\} ;; (1,2)
set builder and inequality ;; \{t : t \ne 0\} ;; t \ne 0
integers as a letter ;; 2\pi n, n\in\mathbb{Z} ;; 2n\pi, n \in \mathbb Z
integers in another type ;; 2\pi n, n\in Z ;; 2n\pi, n \in ℤ
another name of the integer ;; 2\pi k, k\in\mathbb{Z} ;; 2\pi n, n \in \mathbb{Z}
congruence and residue ;; x \equiv 7 \pmod{10} ;; 7 \pmod{10}
another representative ;; 17 \pmod{10} ;; 7 \pmod{10}
negative representative ;; -3 \pmod{10} ;; 7 \pmod{10}
modulus without braces ;; 7 \pmod 5 ;; 2 \pmod{5}
modulus by bmod ;; 7 \bmod 10 ;; 7 \pmod{10}
modulus in words ;; 7 (\text{mod } 10) ;; 7 \pmod{10}
modulus in plain words ;; 7 mod 10 ;; 7 \pmod{10}
equation that defines a ratio ;; V_1:V_2=11:21 ;; 11:21
equation that defines a quotient ;; \frac{NO}{BO}=\frac{1}{\sqrt6} ;; \frac{1}{\sqrt6}
ratio of segments ;; AB:BC = 2:3 ;; 2:3
unequal in ASCII ;; x \neq 3 ;; x != 3
unequal in ASCII without spaces ;; x!=3 ;; x \ne 3
unequal by not ;; x \not= 3 ;; x \ne 3
factorial before an equals sign ;; n = 5!=120 ;; 120
hour without minutes ;; 10\text{ a.m.} ;; 10:00\text{ a.m.}
hour with minutes ;; 10:00 \text{ AM} ;; 10 \text{ a.m.}
per cent abbreviated ;; 28\text{ pct} ;; 28\%
per cent abbreviated outside text ;; 28 pct ;; 28\%
big union ;; (0,1)\bigcup(2,3) ;; (0,1)\cup(2,3)
big intersection ;; (0,3)\bigcap(2,5) ;; (2,3)
big or ;; x<1 \bigvee x>2 ;; (-\infty,1)\cup(2,\infty)
minus a negative ;; 5 - -3 ;; 8
quotient of factorials ;; \frac{(n+1)!}{n!} ;; n+1
binomial as a polynomial ;; \binom{n}{2} ;; \frac{n(n-1)}{2}
central binomial ;; \frac{(2n)!}{n! n!} ;; \binom{2n}{n}
sum in closed form ;; \sum_{k=1}^{n} k ;; \frac{n(n+1)}{2}
geometric series ;; \sum_{k=0}^{\infty} \frac{1}{2^k} ;; 2
Basel ;; \sum_{k=1}^{\infty} \frac{1}{k^2} ;; \frac{\pi^2}{6}
maximum of radicals ;; \max(\sqrt2,\sqrt3) ;; \sqrt3
factorial of a half ;; \left(\frac12\right)! ;; \frac{\sqrt\pi}{2}
absolute value turned round ;; |x-5| ;; |5-x|
absolute value as a root ;; \sqrt{(x-5)^2} ;; |x-5|
maximum as an absolute value ;; \max(x,y) ;; \frac{x+y+|x-y|}{2}
ceiling as a floor ;; \lfloor -x \rfloor ;; -\lceil x \rceil
absolute value of a difference to pi ;; |3-\pi| ;; \pi-3
root of a square of a difference to e ;; \sqrt{(2-e)^2} ;; e-2
repeating decimal under a bar ;; 0.\bar{3} ;; \frac13
repeating decimal without braces ;; 0.1\overline 6 ;; \frac16
product with a fraction ;; 2\frac{x}{3} ;; \frac{2x}{3}
words around an inequality ;; \text{all } x>3 ;; \text{all x > 3}
words around a root ;; \text{At most } \sqrt{2} ;; \text{at most }\sqrt{2}
underlined word ;; \underline{\text{even}} ;; \text{even}
choice with a function of a choice's letter ;; (C) P(A) ;; \text{(C)}
unit in an equation ;; x = 5 \text{ m} ;; 500 \text{ cm}
unit in an equation, converted ;; x = 50 \text{ mm} ;; 5 \text{ cm}
unit of the gold equation dropped ;; 5 ;; x = 5 \text{ m}
plus-minus with units ;; \pm 5 \text{ m} ;; \pm 500 \text{ cm}
plus-minus with the unit dropped ;; \pm 5 ;; \pm 5 \text{ cm}
plus-minus with a label ;; x = \pm 2 ;; 2, -2
plus-minus in a point ;; (3, -4), (-3, 4) ;; (\pm 3, \mp 4)
plus-minus in a point of labels ;; (x,y) = (\pm 3, \pm 4) ;; (-3,-4), (3,4)
plus-minus in a matrix ;; \begin{pmatrix} \pm 1 \\ 2 \end{pmatrix} ;; (-1,2), (1,2)
approximate value with a label ;; x \approx 2.5 ;; 2.5
approximate value of a length ;; 3.7 ;; AB \approx 3.7
approximation after a value with a label ;; x = \frac23 \approx 0.67 ;; \frac23
approximation of pi dropped ;; \pi \approx 3.14 ;; \pi
letters in another order ;; zyxw ;; wxyz
letters as a product ;; 24wxyz ;; 24zyxw
number of millions ;; 5 \text{ million} ;; 5000000
number of dozens with words ;; 3 \text{ dozen eggs} ;; 36
millions of dollars ;; \$2.5 \text{ million} ;; 2500000
liters converted ;; 3 \text{ liters} ;; 3000 \text{ mL}
milliliters as cubic centimeters ;; 30 \text{ ml} ;; 30 \text{ cm}^3
years as months ;; 2 \text{ years} ;; 24 \text{ months}
radians as degrees ;; \frac{\pi}{4} \text{ radians} ;; 45^\circ
degrees in words after a fraction ;; \frac{45}{2} \text{ degrees} ;; 22.5^\circ
degrees in words attached ;; 45degrees ;; 45^\circ
unit with an adjective ;; 5 \text{ feet tall} ;; 5 \text{ feet}
unit of nothing in particular ;; 15 \text{ square units} ;; 15 \text{ cm}^2
words of two kinds ;; 7 \text{ ways} ;; 7 \text{ possibilities}
words with a capital ;; 5 Apples ;; 5
unit attached ;; 5cm ;; 50 \text{ mm}
inequalities joined by and ;; x > 1 \text{ and } x < 3 ;; 1<x<3
inequalities joined by and, as an interval ;; x > 1 \land x < 3 ;; (1,3)
inequalities joined by a comma ;; x \ge 1, x \le 3 ;; [1,3]
unequal twice ;; x \ne 1 \text{ and } x \ne 2 ;; (-\infty,1)\cup(1,2)\cup(2,\infty)
parts of a union joined by and ;; x < 1 \text{ and } x > 3 ;; (-\infty,1)\cup(3,\infty)
inequalities in two variables ;; y > 1 \text{ and } x < 3 ;; x < 3, y > 1
thousands in a fraction ;; \frac{1,000}{3} ;; \frac{1000}{3}
thousands under a root ;; \sqrt{1,000} ;; 10\sqrt{10}
"""

DIFFERENT = r"""
powers that are both nearly zero ;; 1/2^{99} ;; 1/2^{98}
base ;; 101_2 ;; 101_3
number in place of its conversion ;; 5 ;; 101_2
rate in other units ;; 60\text{ feet per second} ;; 60\text{ miles per hour}
rate in other units, with a slash ;; 5\text{ cm/s} ;; 5\text{ m/s}
rate per another unit ;; 5\text{ dollars per hour} ;; 5\text{ dollars per day}
rate of another dimension ;; 5\text{ cm per second} ;; 5\text{ grams per second}
value that is taken back ;; 5\text{ is wrong} ;; 5
value with a doubt ;; 2\text{ but it might be 3} ;; 2
base added ;; 10_6 ;; 10
base not converted ;; 3206_7 ;; 1133
base not converted to base ten ;; 3206_7 ;; 1133_{10}
bases not converted in a difference ;; 43210_{6}-3210_{7} ;; 4776
named values in another order ;; 2,1 ;; x=1, y=2
named values joined by and in another order ;; 2,1 ;; x=1 \text{ and } y=2
named values as another point ;; x=1, y=2 ;; (2,1)
named values that are not alphabetical as a point ;; y=1, x=2 ;; (1,2)
rounded ;; 0.333333 ;; \frac13
rounded to double precision ;; 0.333333333333333314829616256247 ;; \frac13
pi rounded ;; 3.14 ;; \pi
pi by a fraction ;; \frac{22}{7} ;; \pi
relative error ;; 999999999999999999999 ;; 1000000000000000000000
tiny exponential added ;; 5+e^{-1000} ;; 5
tiny power added ;; 5+10^{-900} ;; 5
tiny sine added ;; 5+\sin(1)/10^{500} ;; 5
tiny power of a radical added ;; 5+(\sqrt{2}-1)^{800} ;; 5
tiny power of a logarithm added ;; 5+(\log 2)^{1000000} ;; 5
Ramanujan's near-integer ;; e^{\pi\sqrt{163}} ;; 262537412640768744
near-equal radicals ;; \sqrt{10}+\sqrt{17} ;; \sqrt{5}+\sqrt{26}
factor of 100 ;; 50 ;; 0.5
factor of 100 with signs ;; 0.5\% ;; 50\%
per cent too small ;; 0.05 ;; 50\%
point swapped ;; (2,1) ;; (1,2)
point as a list ;; 1,2 ;; (1,2)
point as a set ;; \{1,2\} ;; (1,2)
matrix transposed ;; \begin{pmatrix}1&2\\3&4\end{pmatrix} ;; \begin{pmatrix}1&3\\2&4\end{pmatrix}
vector swapped ;; \begin{pmatrix}2\\1\end{pmatrix} ;; \begin{pmatrix}1\\2\end{pmatrix}
end point open ;; (-2,7) ;; [-2,7]
end point in an inequality ;; x\le 5 ;; (-\infty,5)
infinity closed ;; (-\infty,5] \cup [7,\infty] ;; (-\infty,5] \cup [7,\infty)
inequality reversed ;; 8r^2 \le s^2 ;; s^2\le 8r^2
inequality as its bound ;; x<5 ;; 5
another variable ;; y=5 ;; x=5
another line ;; 2x-y+2=0 ;; y=2x+1
equation that is no label ;; x^2+y^2=13 ;; 13
root missing ;; 1 ;; 1,2
root too many ;; 1,2,3 ;; 1,2
multiplicity ;; 1,2 ;; 1,1,2
sign ;; x-y ;; x+y
absolute value ;; \sqrt{x^2} ;; x
argument swapped ;; f(x-4) ;; f(4-x)
value of an unknown function ;; 2f(1) ;; f(2)
another unit ;; 12 \text{ m} ;; 12 \text{ cm}
area and length ;; 15 \text{ cm} ;; 15\mbox{ cm}^2
morning and afternoon ;; 4:51 \text{ a.m.} ;; 4\!:\!51 \text{ p.m.}
per cent inside ;; \frac{1}{4\%} ;; \frac14
subscript of nothing ;; x_ ;; x
degrees for per cent ;; 75^\circ ;; 75\%
dollars for degrees ;; \$20 ;; 20^\circ
another choice ;; \text{(D)} ;; \text{(C)}
anagram ;; ABCD ;; \text{CBAD}
anagram outside text ;; DCAB ;; CBAD
another word ;; \text{even} ;; \text{odd}
word for a number ;; \text{Sunday} ;; 5
thousands are no point ;; 100101 ;; (100,101)
false chain ;; 2+2=5 ;; 5
two answers for one ;; 5 \text{ or } 6 ;; 5
empty ;; {} ;; 5
two minus signs ;; --5 ;; 5
two minus signs in the gold ;; 5 ;; --5
plus and minus ;; +-5 ;; -5
two minus signs in an exponent ;; x^{--2} ;; x^2
dash between numbers ;; 5--3 ;; 8
scientific exponent ;; 1.5e3 ;; 150
product of factorials, one off ;; 5!7! ;; 604801
number after a factorial ;; 2!0 ;; 0
sum, one off ;; \sum_{k=1}^{3} k ;; 7
sum in a wrong closed form ;; \sum_{k=1}^{n} k ;; \frac{n(n-1)}{2}
divergent series ;; \sum_{k=1}^{\infty} k ;; -\frac{1}{12}
series, one off ;; \sum_{k=0}^{\infty} \frac{1}{2^k} ;; 1
set builder, closed ;; \{x \mid x\ge 2\} ;; (2,\infty)
set builder of integers ;; \{x \in \mathbb{Z} \mid x>2\} ;; (2,\infty)
set builder with or for and ;; \{x | x<1 \text{ or } x>2\} ;; (1,2)
another period ;; 2\pi n, n\in\mathbb{Z} ;; \pi n, n\in\mathbb{Z}
another domain ;; 2\pi n, n\in\mathbb{N} ;; 2\pi n, n\in\mathbb{Z}
another residue ;; 8 \pmod{10} ;; 7 \pmod{10}
another modulus ;; 7 \pmod{11} ;; 7 \pmod{10}
modulus dropped ;; 7 ;; 7 \pmod{10}
ratio turned round ;; V_1:V_2=21:11 ;; 11:21
quotient turned round ;; \frac{NO}{BO}=\sqrt6 ;; \frac{1}{\sqrt6}
unequal and equal ;; x != 3 ;; x = 3
factorial that is equal ;; 5!=120 ;; 5
hour of the afternoon ;; 10\text{ p.m.} ;; 10:00\text{ a.m.}
hour with other minutes ;; 10:30\text{ a.m.} ;; 10\text{ a.m.}
per cent abbreviated, another number ;; 28\text{ pct} ;; 29\%
big operators swapped ;; (0,1)\bigcap(2,3) ;; (0,1)\cup(2,3)
upright letters ;; 1-\frac{1}{\mathrm{d}} ;; 1-\frac{1}{\mathrm{e}}
quotient of factorials, one off ;; \frac{(n+1)!}{n!} ;; n
binomial, one off ;; \binom{n}{2} ;; \frac{n(n+1)}{2}
minimum for maximum ;; \max(\sqrt2,\sqrt3) ;; \sqrt2
point for the empty set ;; \text{empty} ;; (-4,-4)
empty set for a point ;; (2,2) ;; \emptyset
letters of which one looks like an article ;; \text{A, B} ;; \text{B}
letter that looks like an article ;; b ;; \text{A, B}
another currency ;; 2 \text{ euros} ;; \$2
ratio not in lowest terms ;; 2:4 ;; 1:2
absolute value opened below 5 ;; |x-5| ;; 5-x
absolute value opened above -4 ;; |x+4| ;; x+4
absolute value opened in an equation ;; y=|x-5| ;; y=5-x
absolute value in an exponent ;; e^{|x-5|} ;; e^{5-x}
maximum with a number ;; \max(x,10) ;; 10
minimum with a number ;; \min(x,5) ;; x
absolute values between their zeros ;; |x-10|+|x+10| ;; 20
ceiling for a floor and one ;; \lceil \frac{n}{2}\rceil ;; \lfloor \frac{n}{2}\rfloor+1
floors of thirds ;; \lceil \frac{n}{3}\rceil ;; \lfloor \frac{n}{3}\rfloor+1
absolute value of a product ;; |c d p q| ;; c d p q
root of a square of a difference to pi ;; \sqrt{(3-\pi)^2} ;; 3-\pi
repeating decimal of two digits ;; 0.\bar{36} ;; \frac{36}{100}
words around another inequality ;; \text{all } x > 3 ;; \text{all } x < 3
words around another inequality in one text ;; \text{all x > 3} ;; \text{all x < 3}
words before a root ;; \text{at most } 2 ;; \text{at most } \sqrt{2}
words before two numbers ;; \text{at most } \sqrt{2} 3 ;; \text{at most } 2 \sqrt{3}
no element ;; x \in A ;; x \not\in A
other signs in Unicode ;; x ∉ A ;; x ⊂ A
word negated ;; \neg \text{even} ;; \text{even}
letters between bars ;; |abcd| ;; abcd
two choices ;; (A) or (B) ;; A
two choices in one text ;; \text{(A) or (C)} ;; \text{(A)}
two choices joined by and ;; (A) and B ;; \text{(A)}
another unit in an equation ;; x = 5 \text{ m} ;; 5 \text{ cm}
another unit after plus-minus ;; \pm 5 \text{ m} ;; \pm 5 \text{ cm}
lower signs in a point ;; (\pm 3, \mp 4) ;; (\pm 3, \pm 4)
plus-minus with another label ;; x=\pm 2, y=\pm 3 ;; x=\pm 3, y=\pm 2
another approximate value ;; x \approx 9.9 ;; x \approx 3.7
label without its approximate value ;; x ;; x \approx 2.5
approximation of pi for pi ;; 3.14 ;; \pi \approx 3.14
similar to another triangle ;; \triangle ABC \sim \triangle XYZ ;; \triangle ABC \sim \triangle DEF
similar triangle left out ;; \triangle ABC ;; \triangle ABC \sim \triangle DEF
letters after a number ;; 24 ;; 24wxyz
other letters after a number ;; 24abcd ;; 24wxyz
capital letters after a number ;; 6 ;; 6ABC
other capital letters after a number ;; 2 DEF ;; 2 ABC
letters after a power ;; x^2 wxyz ;; x^2
another triangle ;; \triangle ABC ;; \triangle DEF
millions dropped ;; 5 \text{ million} ;; 5
hundreds dropped ;; 2 ;; 2 \text{ hundred}
months for years ;; 3 \text{ months} ;; 3 \text{ years}
days for years ;; 3 \text{ days} ;; 3 \text{ years}
liters for milliliters ;; 3 \text{ liters} ;; 3 \text{ milliliters}
radians for degrees ;; 45 \text{ radians} ;; 45^\circ
degrees in words for a length ;; 3 \text{ degrees} ;; 3 \text{ cm}
things for a length ;; 3 \text{ apples} ;; 3 \text{ cm}
inequalities joined by and for the reals ;; x > 1 \text{ and } x < 3 ;; (-\infty,\infty)
inequalities joined by or for an interval ;; x > 1 \text{ or } x < 3 ;; x > 1 \text{ and } x < 3
unequal twice for the reals ;; x \ne 1, x \ne 2 ;; \mathbb{R}
"""


def rows(table: str):
    """Yields the rows of a table, as keywords of a named test case."""
    for line in table.strip().splitlines():
        name, prediction, gold = (part.strip() for part in line.split(";;"))
        yield {"testcase_name": "_" + name, "prediction": prediction, "gold": gold}
