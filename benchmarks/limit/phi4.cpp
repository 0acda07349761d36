// phi^4 HMC on one core, written for speed: what the kernel of lattice_ml is measured against.
//
//   S = sum_x [ -2 kappa sum_mu phi_x phi_{x+mu} + (1 - 2 lam) phi_x^2 + lam phi_x^4 ]
//
// A trajectory is a momentum refresh, n leapfrog steps, the energy difference and the accept step.
// It costs n + 1 sweeps over the lattice: the half kicks between two steps are merged, a sweep
// kicks and drifts a site while it is in registers, and the first and the last sum the energy too.
//
// Chains are advanced in groups small enough for the cache.  In a group the chain is the innermost
// index, then the last lattice axis: a `row` of L * group numbers, walked in whole vectors and
// framed by a copy of its periodic neighbours.  So a neighbour along the last axis is a load that
// is shifted by `group`, and all others are loads from other rows.
//
//   g++ -O3 -march=native -ffast-math phi4.cpp -o phi4
//   ./phi4 PRECISION DIMENSION L CHAINS STEPS LENGTH KAPPA LAM THERMALISE SECONDS
//
// runs THERMALISE trajectories of LENGTH time units from phi = 0, then for SECONDS of CPU time, and
// prints one line of JSON: million site updates per second, and means of the timed trajectories
// with errors from the scatter of the chains.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

constexpr int register_bytes = __BIGGEST_ALIGNMENT__;  // 64 with AVX-512, 32 with AVX

template <class Number>
struct Register {
    typedef Number Vector __attribute__((vector_size(register_bytes)));
    typedef Number Unaligned __attribute__((vector_size(register_bytes), may_alias, aligned(4)));
};

// xoshiro128++ (Blackman and Vigna, ACM TOMS 47 (2021) 36), one generator per lane, and Box-Muller
// in single precision, as in lattice_ml.
class Random {
    static constexpr int lanes = register_bytes / sizeof(float);
    using Float = Register<float>::Vector;
    using Word = Register<uint32_t>::Vector;
    using Integer = Register<int32_t>::Vector;
    Word s0, s1, s2, s3;

    static Word rotate(Word x, int k) { return x << k | x >> (32 - k); }
    static Float to_float(Word x) { return __builtin_convertvector((Integer)x, Float); }

    Word next() {
        const Word result = rotate(s0 + s3, 7) + s0, shifted = s1 << 9;
        s2 ^= s0, s3 ^= s1, s1 ^= s2, s0 ^= s3, s2 ^= shifted, s3 = rotate(s3, 11);
        return result;
    }

    // log x of a normal x > 0: the exponent, and 2 artanh((m - 1)/(m + 1)) of the mantissa.
    static Float logarithm(Float x) {
        const Integer exponent = ((Integer)x - 0x3f3504f3) >> 23;  // m in [1/sqrt 2, sqrt 2)
        const Float m = (Float)((Integer)x - (exponent << 23));
        const Float s = (m - 1) / (m + 1), square = s * s;
        const Float series = 2 + square * (2 / 3.f + square * (2 / 5.f + square * (2 / 7.f)));
        return s * series + to_float((Word)exponent) * 0.693147181f;
    }

    static Float root(Float x) {
        for (int l = 0; l < lanes; l++) x[l] = std::sqrt(x[l]);
        return x;
    }

  public:
    static constexpr int block = 2 * lanes;
    std::mt19937 scalar{1};  // seeds the lanes, and draws for the accept steps
    Random() {
        for (Word* s : {&s0, &s1, &s2, &s3})
            for (int l = 0; l < lanes; l++) (*s)[l] = uint32_t(scalar());
    }

    template <class Real>
    void normals(Real* to) {  // `block` of them; the angle is 2 theta with |theta| <= pi/2
        const Float u = (to_float(next() >> 9) + 0.5f) * 0x1p-23f, radius = root(-2 * logarithm(u));
        const Float theta = to_float(next()) * float(M_PI * 0x1p-32), square = theta * theta;
        Float sine = Float{} + 1;
        for (int k = 10; k > 0; k -= 2) sine = 1 - sine * square / float(k * (k + 1));
        sine *= theta;
        const Float cosine = root(1 - sine * sine);
        const Float x = radius * 2 * sine * cosine, y = radius * (1 - 2 * sine * sine);
        for (int l = 0; l < lanes; l++) to[l] = x[l], to[lanes + l] = y[l];
    }
};

struct Settings {
    int extent, chains, steps;
    double length, kappa, lam;
};

struct Chain {  // sums over trajectories
    double acceptance = 0, exp_minus_dh = 0, phi2 = 0;
};

template <class Real, int dimension>
class HMC {
    static constexpr int lanes = register_bytes / sizeof(Real), n_others = 2 * (dimension - 1);
    using Lanes = typename Register<Real>::Vector;
    using Field = std::vector<Lanes>;
    struct Sums {  // over sites; chain c has the lanes c, c + group, c + 2 group ...
        double energy[lanes] = {}, phi2[lanes] = {};
    };
    enum Sweep { first, middle, last };

    const Settings set;
    const int group = std::min(set.chains, lanes);
    const size_t width = size_t(set.extent) * group / lanes;  // of a row, in vectors
    const size_t stride = width + 2;                          // with a halo at either end
    std::vector<std::array<size_t, n_others>> others;         // the rows beside each row
    Field pi, phi, next;                                      // of one group; pi has no halos
    std::vector<Field> fields;                                // where the next trajectories start
    Random random;
    std::exponential_distribution<> minus_log_u;

    static Lanes shifted(const Lanes* from, int by) {
        return *(const typename Register<Real>::Unaligned*)((const Real*)from + by);
    }

    void fill_halo(Lanes* row) const {
        Real *begin = (Real*)row, *end = begin + width * lanes;
        std::copy_n(end - group, group, begin - group);
        std::copy_n(begin, group, end);
    }

    // pi += kick * force(phi), then to = phi + drift * pi.  The energy and phi^2 are summed before
    // the kick of the first sweep and after that of the last, which does not drift.
    template <Sweep which>
    void sweep(const Field& from, Field& to, Real kick, Real drift, Sums& sums) {
        const Real kappa = set.kappa, lam = set.lam, mass = 1 - 2 * lam;
        const Real coupling = 2 * kick * kappa, linear = 2 * kick * mass, cubic = 4 * kick * lam;
        for (size_t row = 0; row < others.size(); row++) {
            const Lanes* here = &from[row * stride + 1];
            std::array<const Lanes*, n_others> beside;
            for (int k = 0; k < n_others; k++) beside[k] = &from[others[row][k] * stride + 1];
            Lanes *momenta = &pi[row * width], *moved = &to[row * stride + 1];
            Lanes energy{}, phi2{};
            for (size_t i = 0; i < width; i++) {
                const Lanes f = here[i], square = f * f, old = momenta[i];
                Lanes hop = shifted(here + i, -group) + shifted(here + i, group);
                for (const Lanes* neighbour : beside) hop += neighbour[i];
                const Lanes kicked = old + coupling * hop - f * (linear + cubic * square);
                if (which != last) {
                    momenta[i] = kicked;
                    moved[i] = f + drift * kicked;
                }
                if (which != middle) {
                    const Lanes p = which == first ? old : kicked;
                    energy += p * p / 2 + square * (mass + lam * square) - kappa * f * hop;
                    phi2 += square;
                }
            }
            if (which != last) fill_halo(moved);
            for (int l = 0; l < lanes && which != middle; l++)
                sums.energy[l] += energy[l], sums.phi2[l] += phi2[l];
        }
    }

    void trajectory(Field& start, Chain* chain) {
        const Real step = set.length / set.steps;
        const double sites = double(others.size()) * set.extent;
        Sums before, after;
        for (size_t i = 0; i < pi.size() * lanes; i += Random::block)
            random.normals((Real*)pi.data() + i);
        sweep<first>(start, phi, step / 2, step, before);
        for (int k = 1; k < set.steps; k++) {
            sweep<middle>(phi, next, step, step, before);
            std::swap(phi, next);
        }
        sweep<last>(phi, next, step / 2, 0, after);

        decltype(Lanes{} < Lanes{}) accept;  // 0 or -1, which is how masks are written
        for (int c = 0; c < group; c++) {
            double dh = 0, square = 0;
            for (int l = c; l < lanes; l += group)
                dh += after.energy[l] - before.energy[l], square += before.phi2[l];
            const bool accepted = dh < minus_log_u(random.scalar);
            for (int l = c; l < lanes; l += group) accept[l] = -accepted;
            chain[c].acceptance += std::min(1.0, std::exp(-dh));
            chain[c].exp_minus_dh += std::exp(-dh);
            chain[c].phi2 += square / sites;
        }
        for (size_t v = 0; v < start.size(); v++) start[v] = accept ? phi[v] : start[v];
    }

  public:
    std::vector<Chain> chains{size_t(set.chains)};

    explicit HMC(const Settings& settings) : set(settings) {
        if (set.chains % group || lanes % group || set.extent * group % lanes)
            std::fprintf(stderr, "chains must fill groups, and rows vectors\n"), std::exit(2);
        others.resize(size_t(std::pow(set.extent, dimension - 1) + 0.5));
        for (size_t row = 0; row < others.size(); row++)
            for (size_t axis = 0, step = 1; axis < dimension - 1; axis++, step *= set.extent) {
                const size_t at = row / step % set.extent, end = set.extent - 1;
                others[row][2 * axis] = at == end ? row - end * step : row + step;
                others[row][2 * axis + 1] = at == 0 ? row + end * step : row - step;
            }
        pi.resize((others.size() * width + 3) / 4 * 4);  // whole blocks of random numbers
        phi = next = Field(others.size() * stride);      // zero
        fields.assign(set.chains / group, phi);
    }

    void advance(int trajectories) {
        for (size_t g = 0; g < fields.size(); g++)
            for (int k = 0; k < trajectories; k++) trajectory(fields[g], &chains[g * group]);
    }
    double updates() const { return double(others.size()) * set.extent * set.chains * set.steps; }
};

template <class Real, int dimension>
void run(const Settings& settings, int thermalise, double seconds) {
    HMC<Real, dimension> hmc(settings);
    hmc.advance(thermalise);
    std::fill(hmc.chains.begin(), hmc.chains.end(), Chain{});
    const int block = std::max(1.0, 2e6 / hmc.updates());  // between two looks at the clock
    const clock_t begin = std::clock();
    double elapsed = 0, n = 0;
    for (; elapsed < seconds; n += block) {
        hmc.advance(block);
        elapsed = double(std::clock() - begin) / CLOCKS_PER_SEC;
    }
    std::printf("{\"rate\": %.1f", n * hmc.updates() / elapsed / 1e6);
    for (auto [name, sum] : {std::pair{"acceptance", &Chain::acceptance},
                             {"exp_minus_dh", &Chain::exp_minus_dh}, {"phi2", &Chain::phi2}}) {
        double mean = 0, square = 0, count = hmc.chains.size();
        for (const Chain& chain : hmc.chains) mean += chain.*sum / n / count;
        for (const Chain& chain : hmc.chains) square += std::pow(chain.*sum / n - mean, 2);
        const double error = std::sqrt(square / std::max(1.0, count - 1) / count);
        std::printf(", \"%s\": [%.8g, %.3g]", name, mean, error);
    }
    std::printf("}\n");
}

int main(int count, char** words) {
    if (count != 11) return std::fprintf(stderr, "expected 10 arguments, see phi4.cpp\n"), 2;
    double x[11];
    for (int k = 2; k < count; k++) x[k] = std::atof(words[k]);
    const Settings settings{int(x[3]), int(x[4]), int(x[5]), x[6], x[7], x[8]};
    const bool single = std::string(words[1]) == "float32";
    const auto runs = single ? std::array{run<float, 2>, run<float, 3>, run<float, 4>}
                             : std::array{run<double, 2>, run<double, 3>, run<double, 4>};
    runs.at(int(x[2]) - 2)(settings, int(x[9]), x[10]);
}
