/* consumer - the contract alone, twice, as a file of a user's own includes it. */
#include "asthra_rt.h"
#include "asthra_rt.h"

int house_consumer(void);
int house_consumer(void) {
    return (int)asthra_result_status(asthra_result_ok(NULL));
}
